"""Whether the watches bring what lists show: a dead watch looks like a cluster in which nothing changes.

A connection may be open, and a load balancer may even pass on bookmarks, while no event comes any more. So
the versions that the watches brought are held against those that lists show. An object that a list shows
newer is awaited; one that stays awaited tells that a watch is dead, whatever the cause. Versions of one
resource are decimal numbers that grow: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
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


@dataclass(slots=True)
class _Awaited:
    kind: Watched
    key: RunKey
    version: int
    since: float


class WatchRecord:
    """Versions by UID: what the watches brought, and what is awaited from them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._brought: dict[str, int] = {}
        self._awaited: dict[str, _Awaited] = {}

    def brought(self, uid: str, version: str) -> None:
        """A watch has brought a version of an object."""
        number = int(version)
        self._brought[uid] = number
        awaited = self._awaited.get(uid)
        if awaited is None:
            return
        if number >= awaited.version:
            del self._awaited[uid]
        else:
            awaited.since = self._clock()

    def gone(self, uid: str) -> None:
        """A watch has told that an object is deleted."""
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
        """How long the object that is awaited longest has been so; 0 if none is."""
        now = self._clock()
        return max((now - one.since for one in self._awaited.values()), default=0.0)
