"""Failed attempts at results: ``failures/<k>/<token>/<n>.json``, each created and never overwritten.

They are counted by result key and retry token over all workers and runs of a store: ``n`` counts from 1. In
the path the token stands as its SHA-256, as it may be any text.
"""

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from annotationrun_worker.errors import StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.staging.digests import Digest, canonical_json, token_digest
from annotationrun_worker.staging.leases import this_process, worker_name
from annotationrun_worker.staging.once import parse_object, warn_unreadable
from annotationrun_worker.staging.store import StagingStore

CAUSE_CHARACTERS: Final = 2000
UNKNOWN_CAUSE: Final = "not known: what was noted of it can't be read"


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One failed attempt."""

    attempt: int
    """The n-th of this key and token, from 1."""
    cause: str
    worker: str
    """Host and process id; what the worker's id begins with."""
    token: str
    """The retry token."""
    nonce: str
    """Random: tells this attempt from any other."""
    time: str = ""
    """When it failed, by the worker's clock: ISO 8601, UTC, whole seconds; empty: nobody noted it."""


def _folder(key: Digest, token: str) -> str:
    return f"failures/{key}/{token_digest(token)}"


async def read_failures(store: StagingStore, key: Digest, token: str) -> Sequence[FailedAttempt]:
    """The failed attempts at the result ``key`` under the retry ``token``, in order.

    One whose record can't be read counts, with ``UNKNOWN_CAUSE``.

    Raises:
        StorageError: the store can't be read.
    """
    folder = _folder(key, token)
    found = []
    for number in await _numbers(store, folder):
        attempt = await _read(store, folder, number, token)
        if attempt is not None:
            found.append(attempt)
    return found


async def count_failures(store: StagingStore, key: Digest) -> int:
    """How often the result ``key`` failed, under any retry token.

    Raises:
        StorageError: the store can't be read.
    """
    return len([found async for found in store.list(f"failures/{key}")])


async def record_failure(store: StagingStore, key: Digest, token: str, cause: str) -> FailedAttempt:
    """Record a failed attempt at the result ``key``, as it stands there now.

    Raises:
        StorageError: the store can't be read or written.
    """
    folder = _folder(key, token)
    numbers = await _numbers(store, folder)
    number = numbers[-1] + 1 if numbers else 1
    worker, nonce = worker_name(this_process()), secrets.token_hex(8)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    while True:
        failed = FailedAttempt(
            number, _as_text(cause)[:CAUSE_CHARACTERS], worker, _as_text(token), nonce, now
        )
        path = f"{folder}/{number}.json"
        reached(FaultPoint.BEFORE_FAILURE)
        if await store.create(path, canonical_json(asdict(failed)) + b"\n"):
            return failed
        if await _read(store, folder, number, token) == failed:  # the object store's answer got lost
            return failed
        number += 1


def _as_text(text: str) -> str:
    """What UTF-8 can hold: names of files in messages may hold bytes that are none."""
    return text.encode(errors="backslashreplace").decode()


def decode_failure(content: bytes) -> FailedAttempt:
    """Read staged bytes.

    Raises:
        StagingError: they are cut, or no failed attempt.
    """
    try:
        failed = FailedAttempt(**parse_object(content))
        if failed.time:
            datetime.fromisoformat(failed.time)
    except (ValueError, TypeError) as error:
        raise StagingError(f"no failed attempt: {error}") from error
    texts = (failed.cause, failed.worker, failed.token, failed.nonce, failed.time)
    if type(failed.attempt) is not int or not all(isinstance(text, str) for text in texts):
        raise StagingError("no failed attempt: its number has to be an integer, all else strings")
    return failed


async def _read(store: StagingStore, folder: str, number: int, token: str) -> FailedAttempt | None:
    path = f"{folder}/{number}.json"
    content = await store.read(path)
    if content is None:
        return None
    try:
        return decode_failure(content)
    except StagingError as error:
        warn_unreadable(store, path, error, "it counts as a failed attempt")
        return FailedAttempt(number, UNKNOWN_CAUSE, "", _as_text(token), "")


async def _numbers(store: StagingStore, folder: str) -> list[int]:
    names = [found.path.rpartition("/")[2].removesuffix(".json") async for found in store.list(folder)]
    return sorted(int(name) for name in names if name.isdecimal())
