"""Lists all runs again and again: in case a watch is dead, and in case a mark was lost.

The list is short (metadata alone). It tells whether the watch of runs is behind, and proves that the API
server can be reached. Every so often all runs are marked, though nothing changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import SystemRandom

from annotationrun_api.errors import AnnotationRunError
from annotationrun_operator.cluster_api import ClusterApi, RunVersion
from annotationrun_operator.run_key import RunKey
from annotationrun_operator.watch_record import Watched, WatchRecord

logger = logging.getLogger(__name__)

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class ResyncSettings:
    """How often."""

    list_seconds: float
    """Between two lists."""
    mark_all_seconds: float
    """Between two marks of all runs, give or take a fifth."""


class Resync:
    """Marks runs that the watches may have missed."""

    def __init__(
        self,
        api: ClusterApi,
        scopes: Sequence[str | None],
        record: WatchRecord,
        mark: Callable[[RunKey], None],
        settings: ResyncSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._scopes = scopes
        self._record = record
        self._mark = mark
        self._settings = settings
        self._clock = clock
        self._known: frozenset[RunKey] = frozenset()
        self._listed_at = self._answered_at = self._clock()

    @property
    def list_age_seconds(self) -> float:
        """Seconds since the last list that succeeded."""
        return self._clock() - self._listed_at

    @property
    def unanswered_seconds(self) -> float:
        """Seconds since a list brought something: a long one is slow, and not refused."""
        return self._clock() - self._answered_at

    async def run(self) -> None:
        """List and mark until cancelled."""
        mark_all_at = self._clock() + self._next_mark_all()
        self._listed_at = self._answered_at = self._clock()
        while True:
            await asyncio.sleep(self._settings.list_seconds)
            is_due = self._clock() >= mark_all_at
            try:
                await self.list_once(mark_all=is_due)
            except AnnotationRunError as error:
                logger.warning("the runs can't be listed: %s", error)
                continue
            if is_due:
                mark_all_at = self._clock() + self._next_mark_all()

    async def list_once(self, *, mark_all: bool) -> None:
        """List the runs, and mark those that the watches are behind of, those that are gone, or all.

        Raises:
            AnnotationRunError: as of `ClusterApi`.
        """
        found: list[RunVersion] = []
        for scope in self._scopes:
            async for run in self._api.list_run_versions(scope):
                self._answered_at = self._clock()
                found.append(run)
        self._listed_at = self._answered_at = self._clock()
        keys = frozenset(run.key for run in found)
        behind = {
            run.key
            for run in found
            if self._record.listed(Watched.RUNS, run.key, {run.uid: run.resource_version})
        }
        # A pass over a run lists its Jobs and pods, and so learns what of them is still awaited.
        for key in behind | self._record.awaiting() | (self._known - keys) | (keys if mark_all else set()):
            self._mark(key)
        self._known = keys

    def _next_mark_all(self) -> float:
        return self._settings.mark_all_seconds * _random.uniform(0.8, 1.2)
