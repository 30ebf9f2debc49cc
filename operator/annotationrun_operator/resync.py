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
    ) -> None:
        self._api = api
        self._scopes = scopes
        self._record = record
        self._mark = mark
        self._settings = settings
        self._known: frozenset[RunKey] = frozenset()
        self._listed_at = time.monotonic()

    @property
    def list_age_seconds(self) -> float:
        """Seconds since the last list that succeeded."""
        return time.monotonic() - self._listed_at

    async def run(self) -> None:
        """List and mark until cancelled."""
        mark_all_at = time.monotonic() + self._next_mark_all()
        self._listed_at = time.monotonic()
        while True:
            await asyncio.sleep(self._settings.list_seconds)
            is_due = time.monotonic() >= mark_all_at
            try:
                await self.list_once(mark_all=is_due)
            except AnnotationRunError as error:
                logger.warning("the runs can't be listed: %s", error)
                continue
            if is_due:
                mark_all_at = time.monotonic() + self._next_mark_all()

    async def list_once(self, *, mark_all: bool) -> None:
        """List the runs, and mark those that the watches are behind of, those that are gone, or all.

        Raises:
            AnnotationRunError: as of `ClusterApi`.
        """
        found: list[RunVersion] = []
        for scope in self._scopes:
            found += await self._api.list_run_versions(scope)
        self._listed_at = time.monotonic()
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
