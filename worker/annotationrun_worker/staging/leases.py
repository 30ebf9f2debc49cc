"""Who works on what: claims, heartbeats, and the processes behind them.

Which process on which machine: enough to see that a process of this machine is gone.

From Linux's ``/proc``, as proc(5) describes it. Two processes that share boot id and process id namespace see
the same process ids; a process id is used again only with another start time.

Who is alive: a worker overwrites ``workers/<id>`` every few seconds while it works, and deletes it then.

No clock is compared with another machine's: a reader takes a worker for dead when its heartbeat is missing,
or has not changed for 30 s of the reader's own monotonic clock. A process of the reader's machine that is
gone is dead at once.

Claims on results: ``claims/<k>/<n>`` holds the id of the n-th worker that took the key ``k`` on itself.

The last of the chain holds the claim. Objects are only created: who finds the last holder dead creates the
next number, and of several that try at once one succeeds. Claims are hints that save work twice, no locks: a
worker that was taken for dead may still live, so results are created, and the first one counts.
"""

import asyncio
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NewType, Self

from annotationrun_worker.errors import StorageError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.staging.digests import Digest, canonical_json
from annotationrun_worker.staging.once import parse_object, warn_unreadable
from annotationrun_worker.staging.store import StagingStore

_ENDED: Final = frozenset("ZXx")
"""States of a process that has ended: a zombie waits for its parent only."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from every other one that ever was."""

    host_name: str
    boot_id: str
    """Of the kernel, random at each start."""
    pid_namespace: int
    """Inode number."""
    pid: int
    start_ticks: int
    """When it started, in clock ticks since the kernel did."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What ``/proc/<pid>/stat`` says of a process."""

    state: str
    """One letter: R running, S sleeping, T stopped, Z zombie, ..."""
    start_ticks: int


def parse_stat(text: str) -> ProcessState:
    """Read ``/proc/<pid>/stat``: fields 3 (state) and 22 (start time).

    Field 2 is the program's name in parentheses, and may hold spaces and parentheses.
    """
    fields = text.rpartition(")")[2].split()
    return ProcessState(fields[0], int(fields[19]))


def read_process(pid: int) -> ProcessState | None:
    """The state of process ``pid`` as seen from here; ``None`` if there is none."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    return ProcessIdentity(
        host_name=socket.gethostname(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
        pid=os.getpid(),
        start_ticks=parse_stat(stat).start_ticks,
    )


def can_see(here: ProcessIdentity, other: ProcessIdentity) -> bool:
    """Whether ``here`` would see ``other`` under its process id if it ran."""
    return (here.boot_id, here.pid_namespace) == (other.boot_id, other.pid_namespace)


def has_ended(process: ProcessIdentity, seen: ProcessState | None) -> bool:
    """Whether ``process`` is gone, with what is ``seen`` under its process id now."""
    return seen is None or seen.state in _ENDED or seen.start_ticks != process.start_ticks


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


_WORKER_ID: Final = re.compile(r"[a-z0-9-]{1,128}")
_NOBODY: Final = WorkerId("")
"""Whoever put a claim that can't be read: it counts as a dead worker's."""


def is_worker_id(text: str) -> bool:
    """Whether ``text`` looks like a ``WorkerId``."""
    return _WORKER_ID.fullmatch(text) is not None


def _folder(key: Digest) -> str:
    return f"claims/{key}"


class Claims:
    """The claims that one worker takes; its heartbeat has to be there before the first."""

    def __init__(self, store: StagingStore, me: WorkerId, liveness: Liveness) -> None:
        self._store = store
        self._me = me
        self._liveness = liveness
        self._mine: dict[Digest, int] = {}
        self.takeovers = 0
        """Claims taken from dead workers."""

    async def take(self, key: Digest) -> WorkerId | None:
        """Take ``key`` on this worker; ``None`` if it is now, else the living worker that holds it.

        That may be this worker itself, which is at it elsewhere. The result may have been staged just before
        the claim was taken: look for it again.

        Raises:
            StorageError: the store can't be read or written.
        """
        if key in self._mine:
            return self._me
        self._mine[key] = -1  # from here on, no other task of this process
        try:
            holder = await self._take(key)
        except BaseException:
            del self._mine[key]
            raise
        if holder is not None:
            del self._mine[key]
        return holder

    async def _take(self, key: Digest) -> WorkerId | None:
        while True:
            number, before = await self._last(key)
            if before == self._me:  # created by an attempt that ended in an error
                self._mine[key] = number
                return None
            if before and await self._liveness.is_alive(before):
                return before
            holder = await self._create(key, number + 1)
            if holder == self._me:
                self._mine[key] = number + 1
                self.takeovers += before is not None
                return None
            if holder:
                return holder
            # Whoever was first has released it since, or it can't be read.

    async def holder(self, key: Digest) -> WorkerId | None:
        """The living worker that holds ``key``, if it is another one; nothing is taken.

        Raises:
            StorageError: the store can't be read.
        """
        _, worker = await self._last(key)
        if not worker or worker == self._me or not await self._liveness.is_alive(worker):
            return None
        return worker

    async def release(self, key: Digest) -> None:
        """Let ``key`` go, with the whole chain; nothing happens if another worker has taken it over.

        Raises:
            StorageError: the store can't be listed or written.
        """
        number = self._mine.get(key)
        if number is None:
            return
        try:
            chain = await self._numbers(key)
            if chain and chain[-1] > number:
                return
            for one in chain:  # the last one last: until then it holds
                await self._store.delete(f"{_folder(key)}/{one}")
        finally:
            del self._mine[key]

    async def _last(self, key: Digest) -> tuple[int, WorkerId | None]:
        """Number and worker of the last holder, ``_NOBODY`` if it can't be read; -1 and ``None`` without."""
        while chain := await self._numbers(key):
            worker = await self._holder(key, chain[-1])
            if worker is not None:
                return chain[-1], worker
            # Released between the two looks.
        return -1, None

    async def _create(self, key: Digest, number: int) -> WorkerId | None:
        """Create the claim ``number``; who holds it now, ``None`` if it was released since."""
        reached(FaultPoint.BEFORE_CLAIM)
        was_first = await self._store.create(f"{_folder(key)}/{number}", self._me.encode())
        reached(FaultPoint.AFTER_CLAIM)
        return self._me if was_first else await self._holder(key, number)

    async def _holder(self, key: Digest, number: int) -> WorkerId | None:
        path = f"{_folder(key)}/{number}"
        content = await self._store.read(path)
        if content is None:
            return None
        text = content.decode(errors="replace")
        if not is_worker_id(text):
            warn_unreadable(self._store, path, f"it holds {text[:64]!r}", "it counts as a dead worker's")
            return _NOBODY
        return WorkerId(text)

    async def _numbers(self, key: Digest) -> list[int]:
        folder = _folder(key)
        names = [found.path.rpartition("/")[2] async for found in self._store.list(folder)]
        return sorted(int(name) for name in names if name.isdecimal())
