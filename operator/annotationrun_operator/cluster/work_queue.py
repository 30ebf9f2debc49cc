"""Passes over keyed things, one at a time for each key: marks made meanwhile come to one more pass.

A key is queued, at work, or at rest. A mark queues a key at rest; a key at work gets one more pass however
often it is marked. A pass says when it wants the next one, if nothing happens till then; a failed pass is
tried again later. Plain asyncio: it knows nothing of Kubernetes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from enum import Enum, auto
from random import SystemRandom
from typing import Generic, TypeVar

from annotationrun_api.errors import AnnotationRunError

logger = logging.getLogger(__name__)

KeyT = TypeVar("KeyT", bound=Hashable)
_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How many passes at once, and how often."""

    workers: int = 8
    """Passes at the same time, over as many keys."""
    spacing_seconds: float = 0.5
    """Rest of a key after a pass, so that a burst of marks comes to few passes."""
    pass_timeout_seconds: float = 120.0
    """A pass that takes longer has failed."""


class _State(Enum):
    QUEUED = auto()
    AT_WORK = auto()
    AT_REST = auto()


@dataclass(slots=True)
class _Entry:
    state: _State = _State.QUEUED
    is_marked: bool = False
    """While at work or at rest: one more pass is due, as soon as may be."""
    rests_until: float = 0.0
    """Loop time."""
    timer: asyncio.TimerHandle | None = None
    """While at rest: queues the key, or forgets it."""
    failures: int = 0
    """Passes in a row that failed."""


class WorkQueue(Generic[KeyT]):
    """One queue; all its methods belong to the thread of its event loop."""

    def __init__(
        self,
        look: Callable[[KeyT], Awaitable[float | None]],
        retry_seconds: Callable[[Exception, int], float],
        settings: QueueSettings | None = None,
    ) -> None:
        """Make a queue; it passes over keys while `run` runs.

        Args:
            look: a pass; returns seconds until the next one, or None if only a mark shall bring one.
            retry_seconds: how long a failed pass waits, from its error and the failures in a row.
            settings: how many passes at once, and how often.
        """
        self._look = look
        self._retry_seconds = retry_seconds
        self._settings = settings or QueueSettings()
        self._entries: dict[KeyT, _Entry] = {}
        self._ready: asyncio.Queue[KeyT] = asyncio.Queue()
        self._at_work_since: dict[KeyT, float] = {}
        self._workers_running = 0
        self.started = asyncio.Event()
        """Set when all workers run."""

    def mark(self, key: KeyT) -> None:
        """Have a pass over `key` soon, and surely one that begins after now."""
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry()
            self._ready.put_nowait(key)
        elif entry.state is _State.AT_WORK:
            entry.is_marked = True
        elif entry.state is _State.AT_REST and not entry.is_marked:
            # Once: marks that come one upon the other would put the timer off for ever.
            entry.is_marked = True
            self._set_timer(key, entry, entry.rests_until, self._enqueue)

    @property
    def length(self) -> int:
        """Keys that wait for a worker."""
        return self._ready.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether every worker runs."""
        return self._workers_running == self._settings.workers

    @property
    def longest_pass_seconds(self) -> float:
        """How long the oldest pass at work has taken so far; 0 if there is none."""
        if not self._at_work_since:
            return 0.0
        return asyncio.get_running_loop().time() - min(self._at_work_since.values())

    async def run(self) -> None:
        """Pass over marked keys until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._settings.workers):
                    group.create_task(self._work(), name=f"queue worker {number}")
        finally:
            for entry in self._entries.values():
                if entry.timer is not None:
                    entry.timer.cancel()

    async def _work(self) -> None:
        self._workers_running += 1
        if self.is_alive:
            self.started.set()
        try:
            while True:
                await self._pass_over(await self._ready.get())
        finally:
            self._workers_running -= 1

    async def _pass_over(self, key: KeyT) -> None:
        loop = asyncio.get_running_loop()
        entry = self._entries[key]
        entry.state, entry.is_marked = _State.AT_WORK, False
        self._at_work_since[key] = loop.time()
        try:
            async with asyncio.timeout(self._settings.pass_timeout_seconds):
                recheck_seconds = await self._look(key)
            entry.failures = 0
        except Exception as error:  # noqa: BLE001 - a defect in one pass must not end the passes over others
            entry.failures += 1
            recheck_seconds = self._jittered(self._retry_seconds(error, entry.failures))
            _log_failure(key, error, recheck_seconds)
        finally:
            del self._at_work_since[key]
        self._rest(key, entry, recheck_seconds)

    def _rest(self, key: KeyT, entry: _Entry, recheck_seconds: float | None) -> None:
        now = asyncio.get_running_loop().time()
        entry.state, entry.rests_until = _State.AT_REST, now + self._settings.spacing_seconds
        if entry.is_marked:
            self._set_timer(key, entry, entry.rests_until, self._enqueue)
        elif recheck_seconds is not None:
            self._set_timer(key, entry, max(entry.rests_until, now + recheck_seconds), self._enqueue)
        else:
            self._set_timer(key, entry, entry.rests_until, self._forget)

    def _set_timer(self, key: KeyT, entry: _Entry, when: float, then: Callable[[KeyT], None]) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = asyncio.get_running_loop().call_at(when, then, key)

    def _enqueue(self, key: KeyT) -> None:
        entry = self._entries[key]
        entry.state, entry.timer = _State.QUEUED, None
        self._ready.put_nowait(key)

    def _forget(self, key: KeyT) -> None:
        del self._entries[key]

    @staticmethod
    def _jittered(seconds: float) -> float:
        """Up to a fifth more: runs that failed together are not tried again together."""
        return seconds * _random.uniform(1.0, 1.2)


def _log_failure(key: Hashable, error: Exception, recheck_seconds: float) -> None:
    if isinstance(error, AnnotationRunError):
        logger.warning("%s: the next pass is in %.1f s: %s", key, recheck_seconds, error)
    else:
        logger.error("%s: the pass failed, the next is in %.1f s", key, recheck_seconds, exc_info=error)
