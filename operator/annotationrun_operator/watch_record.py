"""Whether the watches bring what lists show: a dead watch looks like a cluster in which nothing changes.

A connection may be open, and a load balancer may even pass on bookmarks, while no event comes any more. So
the versions that the watches brought are held against those that lists show. An object that a list shows
newer is awaited. A watch that owes an object and brings nothing at all is dead, whatever the cause; one that
brings others meanwhile is alive, and has merely much to bring. Versions of one resource are decimal numbers
that grow: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from annotationrun_operator.run_key import RunKey


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
