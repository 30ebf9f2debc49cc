"""Results of a module for one episode, staged whole: ``results/<module>/<k[:2]>/<k>.jsonl``.

The first line says what the result is; each further line is one row. Where questions stayed without a usable
answer, they may be asked again: what comes of it is a further round of the same result, staged under a key of
its own, and no round is ever overwritten.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotationrun_worker.errors import StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.rows import ResultName, StagedRow
from annotationrun_worker.staging.digests import (
    Digest,
    canonical_json,
    digest_bytes,
    digest_json,
    token_digest,
)
from annotationrun_worker.staging.store import StagingStore

RESULT_FORMAT = 1
"""Counts up when the same answers would make other rows."""
NO_RETRY_TOKEN: Final = token_digest("")


@dataclass(frozen=True, slots=True)
class ModuleResult:
    """What a module made of one episode."""

    module: ResultName
    key: Digest
    rows: Sequence[StagedRow]
    holes: Sequence[Mapping[str, Any]] = ()
    """Questions without a usable answer: frame, camera, kind, cause."""
    retry_token: Digest = NO_RETRY_TOKEN
    """Digest of the retry token under which it was made: see ``token_digest``."""
    attempt: int = 0
    """With which its questions were asked: see ``Asker.attempt``."""
    earlier_rounds: Sequence[Digest] = ()
    """Keys of the rounds before it, without which nobody finds it."""

    @property
    def content_digest(self) -> Digest:
        """Digest of the rows alone."""
        return digest_bytes(_row_lines(self.rows))

    @property
    def asked(self) -> int:
        """Number of requests whose answers it holds, and of questions that stayed without one."""
        return len({row.request for row in self.rows if row.request}) + len(self.holes)


def _row_lines(rows: Sequence[StagedRow]) -> bytes:
    return "".join(f"{row.to_json()}\n" for row in rows).encode()


def _path(module: ResultName, key: Digest) -> str:
    return f"results/{module}/{key[:2]}/{key}.jsonl"


def encode_result(result: ModuleResult) -> bytes:
    """The staged bytes of ``result``."""
    head = {
        "format": RESULT_FORMAT,
        "module": result.module,
        "key": result.key,
        "row_count": len(result.rows),
        "rows_sha256": result.content_digest,
        "holes": list(result.holes),
        "retry_token": result.retry_token,
        "attempt": result.attempt,
        "earlier_rounds": list(result.earlier_rounds),
    }
    return canonical_json(head) + b"\n" + _row_lines(result.rows)


def decode_result(content: bytes, module: ResultName, key: Digest) -> ModuleResult:
    """Read staged bytes.

    Raises:
        StagingError: they are cut, changed, or another result's.
    """
    head_line, _, body = content.partition(b"\n")
    where = f"the staged result {_path(module, key)!r}"
    try:
        head = json.loads(head_line)
        rows = tuple(StagedRow.from_json(line) for line in body.decode().split("\n") if line)
        found = (head["format"], head["module"], head["key"], head["rows_sha256"])
        holes = tuple(head["holes"])
        token, attempt = Digest(head.get("retry_token", NO_RETRY_TOKEN)), int(head.get("attempt", 0))
        earlier = tuple(map(Digest, head.get("earlier_rounds", ())))
    except (ValueError, KeyError, TypeError) as error:
        raise StagingError(f"{where} can't be read ({error}); delete it, it will be made again") from error
    expected = (RESULT_FORMAT, module, key, digest_bytes(body))
    if found != expected:
        raise StagingError(f"{where} holds {found}, expected {expected}; delete it, it will be made again")
    return ModuleResult(module, key, rows, holes, token, attempt, earlier)


async def read_result(store: StagingStore, module: ResultName, key: Digest) -> ModuleResult | None:
    """The staged result under ``key``, or ``None``."""
    content = await store.read(_path(module, key))
    return None if content is None else decode_result(content, module, key)


@dataclass(frozen=True, slots=True)
class Rounds:
    """All rounds of a result that are staged."""

    result: ModuleResult | None
    """The last one; of several with the same rows the first. ``None``: there is none."""
    next_key: Digest
    """Of the round that is not staged yet."""
    keys: Sequence[Digest] = ()
    """Of those that are."""
    next_attempt: int = 0
    """With which it is asked, at least: the earlier ones gave nothing to what stayed without an answer."""
    retry_tokens: frozenset[Digest] = frozenset()
    """Digests of the retry tokens under which they were made."""


async def read_rounds(store: StagingStore, module: ResultName, key: Digest) -> Rounds:
    """The rounds of the result whose first has the key ``key``; one without holes is the last.

    Raises:
        StagingError: one is cut, changed, or another result's.
        StorageError: the store can't be read.
    """
    latest: ModuleResult | None = None
    keys: list[Digest] = []
    next_key, next_attempt, tokens = key, 0, set[Digest]()
    while (found := await read_result(store, module, next_key)) is not None:
        keys.append(next_key)
        tokens.add(found.retry_token)
        next_attempt = found.attempt + 1
        if latest is None or found.content_digest != latest.content_digest:
            latest = found
        if not found.holes:
            break
        next_key = digest_json({"result": key, "after": next_key})
    return Rounds(latest, next_key, keys, next_attempt, frozenset(tokens))


def read_result_now(store: StagingStore, module: ResultName, key: Digest) -> ModuleResult:
    """The staged result under ``key``, for code that runs in a thread of its own.

    Raises:
        StagingError: there is none.
    """
    content = store.read_now(_path(module, key))
    if content is None:
        raise StagingError(
            f"the staged result {_path(module, key)!r} has gone from {store.location!r}; run again"
        )
    return decode_result(content, module, key)


async def stage_result(store: StagingStore, result: ModuleResult) -> tuple[ModuleResult, bool]:
    """Stage ``result``: what stands under its key now, and whether it is this one.

    False: the result was made twice, another worker's was first and is the one that counts.
    """
    reached(FaultPoint.BEFORE_RESULT)
    was_first = await store.create(_path(result.module, result.key), encode_result(result))
    reached(FaultPoint.AFTER_RESULT)
    if was_first:
        return result, True
    return await read_result(store, result.module, result.key) or result, False
