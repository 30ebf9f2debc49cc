"""A queue of keys to reconcile: each is reconciled by one worker at a time, as in Kubernetes' controllers.

A key is queued, being reconciled, or at rest. A key at rest is queued when it is enqueued; one that is being
reconciled is reconciled once more, however often it is enqueued meanwhile. Reconciling says when it should
happen next if nothing changes until then; what failed is tried again later. Plain asyncio: it knows nothing
of Kubernetes.
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
    """How many keys are reconciled at once, and how often."""

    workers: int = 8
    """Keys that are reconciled at the same time."""
    spacing_seconds: float = 0.5
    """A key rests so long after it was reconciled, so that a burst of changes is reconciled a few times."""
    reconcile_timeout_seconds: float = 120.0
    """Reconciling that takes longer has failed."""


class _State(Enum):
    QUEUED = auto()
    RECONCILING = auto()
    AT_REST = auto()


@dataclass(slots=True)
class _Entry:
    state: _State = _State.QUEUED
    is_enqueued: bool = False
    """While it is reconciled or at rest: it is due once more, as soon as may be."""
    rests_until: float = 0.0
    """Loop time."""
    timer: asyncio.TimerHandle | None = None
    """While at rest: queues the key, or forgets it."""
    failures: int = 0
    """How often in a row reconciling failed."""


class WorkQueue(Generic[KeyT]):
    """One queue; all its methods belong to the thread of its event loop."""

    def __init__(
        self,
        reconcile: Callable[[KeyT], Awaitable[float | None]],
        retry_seconds: Callable[[Exception, int], float],
        settings: QueueSettings | None = None,
    ) -> None:
        """Make a queue; keys are reconciled while `run` runs.

        Args:
            reconcile: reconciles a key; returns seconds until the next time, or None if only a change counts.
            retry_seconds: how long a key waits after a failure, by its error and the failures in a row.
            settings: how many keys at once, and how often.
        """
        self._reconcile = reconcile
        self._retry_seconds = retry_seconds
        self._settings = settings or QueueSettings()
        self._entries: dict[KeyT, _Entry] = {}
        self._ready: asyncio.Queue[KeyT] = asyncio.Queue()
        self._reconciling_since: dict[KeyT, float] = {}
        self._workers_running = 0
        self.started = asyncio.Event()
        """Set when all workers run."""

    def enqueue(self, key: KeyT) -> None:
        """Have `key` reconciled soon, and surely once more after now."""
        entry = self._entries.get(key)
        if entry is None:
            self._entries[key] = _Entry()
            self._ready.put_nowait(key)
        elif entry.state is _State.RECONCILING:
            entry.is_enqueued = True
        elif entry.state is _State.AT_REST and not entry.is_enqueued:
            # Once: changes that come one upon the other would put the timer off for ever.
            entry.is_enqueued = True
            self._set_timer(key, entry, entry.rests_until, self._queue)

    @property
    def length(self) -> int:
        """Keys that wait for a worker."""
        return self._ready.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether every worker runs."""
        return self._workers_running == self._settings.workers

    @property
    def longest_reconcile_seconds(self) -> float:
        """How long the key that is reconciled longest has taken so far; 0 if none is."""
        if not self._reconciling_since:
            return 0.0
        return asyncio.get_running_loop().time() - min(self._reconciling_since.values())

    async def run(self) -> None:
        """Reconcile queued keys until cancelled."""
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
                await self._reconcile_key(await self._ready.get())
        finally:
            self._workers_running -= 1

    async def _reconcile_key(self, key: KeyT) -> None:
        loop = asyncio.get_running_loop()
        entry = self._entries[key]
        entry.state, entry.is_enqueued = _State.RECONCILING, False
        self._reconciling_since[key] = loop.time()
        try:
            async with asyncio.timeout(self._settings.reconcile_timeout_seconds):
                recheck_seconds = await self._reconcile(key)
            entry.failures = 0
        except Exception as error:  # noqa: BLE001 - a defect in one must not end the others
            entry.failures += 1
            recheck_seconds = self._jittered(self._retry_seconds(error, entry.failures))
            _log_failure(key, error, recheck_seconds)
        finally:
            del self._reconciling_since[key]
        self._rest(key, entry, recheck_seconds)

    def _rest(self, key: KeyT, entry: _Entry, recheck_seconds: float | None) -> None:
        now = asyncio.get_running_loop().time()
        entry.state, entry.rests_until = _State.AT_REST, now + self._settings.spacing_seconds
        if entry.is_enqueued:
            self._set_timer(key, entry, entry.rests_until, self._queue)
        elif recheck_seconds is not None:
            self._set_timer(key, entry, max(entry.rests_until, now + recheck_seconds), self._queue)
        else:
            self._set_timer(key, entry, entry.rests_until, self._forget)

    def _set_timer(self, key: KeyT, entry: _Entry, when: float, then: Callable[[KeyT], None]) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = asyncio.get_running_loop().call_at(when, then, key)

    def _queue(self, key: KeyT) -> None:
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
        logger.warning("%s: reconciled again in %.1f s: %s", key, recheck_seconds, error)
    else:
        logger.error("%s: reconciling failed; again in %.1f s", key, recheck_seconds, exc_info=error)
