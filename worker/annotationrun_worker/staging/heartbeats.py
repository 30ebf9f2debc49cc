"""Who is alive: a worker overwrites ``workers/<id>`` every few seconds while it works, and deletes it then.

No clock is compared with another machine's: a reader takes a worker for dead when its heartbeat is missing,
or has not changed for 30 s of the reader's own monotonic clock. A process of the reader's machine that is
gone is dead at once.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Final, Literal, NewType, Self

from annotationrun_worker.errors import StorageError
from annotationrun_worker.staging.digests import canonical_json
from annotationrun_worker.staging.once import parse_object, warn_unreadable
from annotationrun_worker.staging.processes import (
    ProcessIdentity,
    can_see,
    has_ended,
    read_process,
    this_process,
)
from annotationrun_worker.staging.store import StagingStore

WorkerId = NewType("WorkerId", str)
"""``<host>-<pid>-<random>``: another one for each heartbeat; safe as a path segment."""

BEAT_SECONDS: Final = 5.0
STALE_SECONDS: Final = 30.0
"""Six heartbeats: a slow object store may lose some of them to its retries."""
_LEAVE_SECONDS: Final = 3.0  # for the heartbeat's deletion; a worker that is told to stop has 10 s


@dataclass(frozen=True, slots=True)
class Beat:
    """The content of a heartbeat."""

    counter: int
    process: ProcessIdentity


def encode_beat(beat: Beat) -> bytes:
    """As it is stored: JSON."""
    return canonical_json(asdict(beat)) + b"\n"


def decode_beat(content: bytes) -> Beat:
    """Read what ``encode_beat`` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = parse_object(content)
        process = ProcessIdentity(**value["process"])
        counter = value["counter"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"not a heartbeat: {error}") from error
    numbers = (counter, process.pid_namespace, process.pid, process.start_ticks)
    if not all(type(number) is int for number in numbers):
        raise ValueError(f"not a heartbeat: {numbers} have to be integers")
    return Beat(counter, process)


def worker_name(process: ProcessIdentity) -> str:
    """``process`` for people, ``<host>-<pid>``: what its worker ids begin with."""
    host = re.sub(r"[^a-z0-9-]+", "-", process.host_name.lower())[:63]
    return f"{host}-{process.pid}"


def heartbeat_path(worker: WorkerId) -> str:
    """Where the heartbeat of ``worker`` lies."""
    return f"workers/{worker}"


class Heartbeat:
    """Shows others that this worker lives: ``async with Heartbeat(store) as heartbeat: ...``.

    The first beat is written before the block begins. When a later one can't be written, the block is
    cancelled and the StorageError raised in its place, as others take this worker for dead then.
    """

    def __init__(self, store: StagingStore, every_seconds: float = BEAT_SECONDS) -> None:
        self._process = this_process()
        self.me = WorkerId(f"{worker_name(self._process)}-{secrets.token_hex(4)}")
        self._store = store
        self._every_seconds = every_seconds
        self._counter = 0
        self._ends = asyncio.Event()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._beat()
        await self._tasks.__aenter__()
        self._tasks.create_task(self._go_on())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        self._ends.set()
        first: BaseException | None = None
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except ExceptionGroup as group:
            first = group.exceptions[0]  # the block's own error, or that of the beat that cancelled it
        finally:
            await self._leave()
        if first is not None and first is not error:
            raise first
        return False

    async def _go_on(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every_seconds):
                    await self._ends.wait()
                return
            except TimeoutError:
                await self._beat()

    async def _beat(self) -> None:
        self._counter += 1
        await self._store.put(heartbeat_path(self.me), encode_beat(Beat(self._counter, self._process)))

    async def _leave(self) -> None:
        # One that stays does no harm: it becomes stale.
        with suppress(StorageError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._store.delete(heartbeat_path(self.me))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A heartbeat as it was when it was first seen to be so."""

    content: bytes
    since_seconds: float


class Liveness:
    """Tells whether workers are alive; one reader remembers what it saw of each."""

    def __init__(self, store: StagingStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._here = this_process()
        self._seen: dict[WorkerId, _Seen] = {}
        self._unreadable: set[WorkerId] = set()

    async def is_alive(self, worker: WorkerId) -> bool:
        """Whether ``worker`` seems to live; one whose heartbeat can't be read does not.

        Raises:
            StorageError: the store can't be read.
        """
        content = await self._store.read(heartbeat_path(worker))
        if content is None:
            self._seen.pop(worker, None)
            return False
        try:
            process = decode_beat(content).process
        except ValueError as error:
            if worker not in self._unreadable:
                self._unreadable.add(worker)
                warn_unreadable(self._store, heartbeat_path(worker), error, "its worker counts as dead")
            return False
        if can_see(self._here, process) and has_ended(process, read_process(process.pid)):
            return False
        now_seconds = self._clock()
        seen = self._seen.get(worker)
        if seen is None or seen.content != content:
            self._seen[worker] = _Seen(content, now_seconds)
            return True
        return now_seconds - seen.since_seconds < STALE_SECONDS
