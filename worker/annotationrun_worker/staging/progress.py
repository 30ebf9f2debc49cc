"""How far a plan is, and what each worker has used.

How far a plan is, for all workers of a store: ``progress/<plan digest>/done/<episode>``.

An episode that was given up has ``progress/<plan digest>/failed/<SHA-256 of the retry token>/<episode>``. The
objects are empty: that they are there says it. They are for counting; whether a result is there its own key
tells.

What each worker has used: ``usage/<account>/<worker id>.json``, one object a worker.

An account is a run of a cluster (its UID), or else a plan (its digest). A worker overwrites its own object
with its counts since its start, every few seconds while it works and when it ends, SIGTERM included. So one
that is killed (SIGKILL, a lost node) takes along what it did since it wrote last, a few seconds of counts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Final, Self

from annotationrun_worker.errors import StagingError, StorageError
from annotationrun_worker.staging.digests import Digest, canonical_json, token_digest
from annotationrun_worker.staging.leases import BEAT_SECONDS, WorkerId
from annotationrun_worker.staging.once import parse_object, warn_unreadable
from annotationrun_worker.staging.store import StagingStore

PROGRESS_FOLDER: Final = "progress"


@dataclass(frozen=True, slots=True)
class EpisodeMarks:
    """The marks of one plan."""

    store: StagingStore
    plan: Digest
    retry_token: str = ""
    """Under a new one what was given up is tried again, and so not given up."""

    async def mark_done(self, episode: int) -> None:
        """Note that ``episode`` has all its results.

        Raises:
            StorageError: the store can't be written.
        """
        await self.store.create(f"{self._done}/{int(episode)}", b"")

    async def mark_failed(self, episode: int) -> None:
        """Note that ``episode`` was given up.

        Raises:
            StorageError: the store can't be written.
        """
        await self.store.create(f"{self._failed}/{int(episode)}", b"")

    def done_now(self) -> frozenset[int]:
        """The episodes that have all their results, at once.

        Raises:
            StorageError: the store can't be read.
        """
        return self._listed(self._done)

    def failed_now(self) -> frozenset[int]:
        """The episodes that were given up, at once; one that was done all the same is among them.

        Raises:
            StorageError: the store can't be read.
        """
        return self._listed(self._failed)

    @property
    def _done(self) -> str:
        return f"{PROGRESS_FOLDER}/{self.plan}/done"

    @property
    def _failed(self) -> str:
        return f"{PROGRESS_FOLDER}/{self.plan}/failed/{token_digest(self.retry_token)}"

    def _listed(self, folder: str) -> frozenset[int]:
        names = (found.path.rpartition("/")[2] for found in self.store.list_now(folder))
        return frozenset(int(name) for name in names if name.isdecimal())


USAGE_FOLDER: Final = "usage"
MAX_COUNT: Final = 2**53
"""Beyond it JSON's numbers are no longer exact."""
_LAST_SECONDS: Final = 2.0  # for the last writing; a worker that is told to stop has 10 s


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """Counts of one worker since its start, or of several."""

    answered: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that the server says it had in its cache."""
    worker_seconds: int = 0
    gpu_seconds: int = 0
    """GPUs of the server beside the worker, times the worker's seconds; 0: none, or not known."""

    def __add__(self, other: Self) -> "WorkerUsage":
        """The counts of both."""
        return WorkerUsage(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )

    @property
    def requests(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed

    @property
    def tokens_per_second(self) -> float:
        """Of prompts and answers."""
        tokens = self.prompt_tokens + self.completion_tokens
        return round(tokens / self.worker_seconds, 1) if self.worker_seconds else 0.0

    @property
    def is_worth_noting(self) -> bool:
        """Whether anything was asked or held."""
        return bool(self.requests or self.gpu_seconds)


def usage_path(account: str, worker: WorkerId) -> str:
    """Where the counts of ``worker`` lie."""
    return f"{USAGE_FOLDER}/{account}/{worker}.json"


async def read_usage(store: StagingStore, account: str) -> WorkerUsage:
    """The sum over all workers of ``account``; the counts of one that can't be read are left out.

    Raises:
        StorageError: the store can't be read.
    """
    total = WorkerUsage()
    async for found in store.list(f"{USAGE_FOLDER}/{account}"):
        content = await store.read(found.path)
        if content is None:
            continue
        try:
            total += decode_usage(content)
        except StagingError as error:
            warn_unreadable(store, found.path, error, "the run's cost lacks these counts, its rows nothing")
    return total


def decode_usage(content: bytes) -> WorkerUsage:
    """Read staged bytes.

    Raises:
        StagingError: they are cut, or no counts.
    """
    try:
        counts = parse_object(content)
        for name, count in counts.items():
            if type(count) is not int or not 0 <= count <= MAX_COUNT:
                raise ValueError(f"{name} is {count!r:.64}, expected a whole number from 0 to {MAX_COUNT}")
        return WorkerUsage(**counts)
    except (ValueError, TypeError) as error:
        raise StagingError(f"no counts of a worker: {error}") from error


@asynccontextmanager
async def usage_staged(
    store: StagingStore,
    path: str,
    read: Callable[[], WorkerUsage],
    every_seconds: float = BEAT_SECONDS,
) -> AsyncIterator[None]:
    """Within, what ``read`` gives is written to ``path`` now and then, and once more at the end.

    A worker that asked nothing and held no GPU writes nothing. A writing that fails is made good by the next,
    as counts only grow; a store that stays away is for the heartbeat to tell.
    """
    ends = asyncio.Event()
    written = WorkerUsage()

    async def write() -> None:
        nonlocal written
        usage = read()
        if usage.is_worth_noting and usage != written:
            with suppress(StorageError):
                await store.put(path, canonical_json(asdict(usage)) + b"\n")
                written = usage

    async def now_and_then() -> None:
        has_ended = False
        while not has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_seconds):
                    has_ended = await ends.wait()
            await write()  # once more after the end, whatever was being written then

    writing = asyncio.create_task(now_and_then())
    try:
        yield
    finally:
        ends.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await writing
