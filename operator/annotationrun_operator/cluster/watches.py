"""Whether the watches bring what lists show, and the lists that find what they missed.

A dead watch looks like a cluster in which nothing changes. A connection may be open, and a load balancer may
even pass on bookmarks, while no event comes any more. So the versions that the watches brought are compared
with those that lists show. An object that a list shows newer is awaited. A watch that owes an object and
brings nothing at all is dead, whatever the cause; one that brings others meanwhile is alive, and has merely
much to bring. Versions of one resource are decimal numbers that grow:
https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions

The lists are short (metadata alone), and prove that the API server can be reached. Every so often all runs
are marked, though nothing changed, in case a mark was lost.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import SystemRandom

from annotationrun_api.errors import AnnotationRunError
from annotationrun_operator.cluster.api import ClusterApi, RunVersion
from annotationrun_operator.observation import RunKey


class Watched(StrEnum):
    """What is watched."""

    RUNS = "runs"
    JOBS = "jobs"
    PODS = "pods"


_Watch = tuple[Watched, str]
"""What it brings, and its namespace; an empty one is that of all namespaces."""


@dataclass(slots=True)
class _Awaited:
    kind: Watched
    key: RunKey
    version: int
    since: float


class WatchRecord:
    """Versions by UID: what the watches brought, and what is awaited from them."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, has_watch_by_namespace: bool = False
    ) -> None:
        """Make an empty record; each namespace has watches of its own, or all share one of each kind."""
        self._clock = clock
        self._has_watch_by_namespace = has_watch_by_namespace
        self._brought: dict[str, int] = {}
        self._awaited: dict[str, _Awaited] = {}
        self._heard_at: dict[_Watch, float] = {}
        """When each watch brought something last."""

    def brought(self, kind: Watched, namespace: str, uid: str, version: str) -> None:
        """A watch has brought a version of an object."""
        self._heard_at[self._watch_of(kind, namespace)] = self._clock()
        number = int(version)
        self._brought[uid] = number
        awaited = self._awaited.get(uid)
        if awaited is not None and number >= awaited.version:
            del self._awaited[uid]

    def gone(self, kind: Watched, namespace: str, uid: str) -> None:
        """A watch has told that an object is deleted."""
        self._heard_at[self._watch_of(kind, namespace)] = self._clock()
        self._brought.pop(uid, None)
        self._awaited.pop(uid, None)

    def listed(self, kind: Watched, key: RunKey, versions: Mapping[str, str]) -> bool:
        """A list has shown all objects of a kind that belong to a run, by UID.

        Returns whether a watch is behind.
        """
        for uid in [uid for uid, one in self._awaited.items() if (one.kind, one.key) == (kind, key)]:
            if uid not in versions:
                del self._awaited[uid]
        is_behind = False
        for uid, version in versions.items():
            if int(version) <= self._brought.get(uid, -1):
                continue
            is_behind = True
            awaited = self._awaited.setdefault(uid, _Awaited(kind, key, int(version), self._clock()))
            awaited.version = int(version)
        return is_behind

    def awaiting(self) -> frozenset[RunKey]:
        """Runs with an object that is awaited."""
        return frozenset(one.key for one in self._awaited.values())

    @property
    def behind_seconds(self) -> float:
        """How long a watch that owes an object has brought nothing; of several the longest; 0: none owes."""
        now = self._clock()
        return max((now - self._silent_since(one) for one in self._awaited.values()), default=0.0)

    def _silent_since(self, one: _Awaited) -> float:
        heard_at = self._heard_at.get(self._watch_of(one.kind, one.key.namespace))
        return one.since if heard_at is None else max(one.since, heard_at)

    def _watch_of(self, kind: Watched, namespace: str) -> _Watch:
        return kind, namespace if self._has_watch_by_namespace else ""


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
        # Reconciling a run lists its Jobs and pods, and so learns what of them is still awaited.
        for key in behind | self._record.awaiting() | (self._known - keys) | (keys if mark_all else set()):
            self._mark(key)
        self._known = keys

    def _next_mark_all(self) -> float:
        return self._settings.mark_all_seconds * _random.uniform(0.8, 1.2)
