"""What kopf does here: it watches, and each event marks a run. It writes nothing, no object and no Event.

`kopf.on.event` alone is used: every other decorator has kopf keep its own state in annotations, or a
finalizer on the object.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from annotationrun_api.labels import (
    FIELD_MANAGER,
    GROUP,
    PLURAL,
    RUN_NAME_LABEL,
    RUN_UID_LABEL,
    VERSION,
)
from annotationrun_operator.cluster.api import WatchConnection, watch_connection
from annotationrun_operator.cluster.watches import Watched, WatchRecord
from annotationrun_operator.observation import RunKey

_IDLE_SECONDS = 0.1
_PAGE_OBJECTS = 100
"""Of the list before a watch: whole objects, and a run or a pod may have hundreds of KB."""


def make_registry(mark: Callable[[RunKey], None], record: WatchRecord) -> kopf.OperatorRegistry:
    """The handlers; nothing is registered with kopf's global registry."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="log_in")
    async def log_in(**_: Any) -> WatchConnection:  # noqa: ANN401 - kopf's keywords
        return await watch_connection()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def run_changed(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
        metadata = _take(event, Watched.RUNS, record)
        mark(RunKey(metadata["namespace"], metadata["name"]))

    @kopf.on.event("batch", "v1", "jobs", registry=registry)
    async def job_changed(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
        child_changed(event, Watched.JOBS)

    @kopf.on.event("", "v1", "pods", registry=registry)
    async def pod_changed(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
        child_changed(event, Watched.PODS)

    def child_changed(event: kopf.RawEvent, kind: Watched) -> None:
        metadata = _take(event, kind, record)
        if name := metadata.get("labels", {}).get(RUN_NAME_LABEL):
            mark(RunKey(metadata["namespace"], name))

    return registry


class _Backoffs(Iterable[float]):
    """Seconds between attempts, without end: an API server that is away for long must not end the process.

    The health endpoint tells of it. Kopf goes through them anew for each request.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((1.0, 2.0, 4.0), repeat(8.0))


def make_settings() -> kopf.OperatorSettings:
    """How kopf watches. A stream that brings nothing for 70 s, not even a bookmark, is opened again."""
    settings = kopf.OperatorSettings()
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = _PAGE_OBJECTS
    for children in (("batch", "v1", "jobs"), ("", "v1", "pods")):
        settings.watching.label_selectors[children] = RUN_UID_LABEL
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = _Backoffs()
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.posting.level = logging.WARNING
    settings.posting.reporting_component = FIELD_MANAGER
    # A worker lives for its object's events and idles a while: a limit on workers is one on the intake.
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.queueing.exit_timeout = 1.0
    settings.execution.max_workers = 1
    settings.process.ultimate_exiting_timeout = 20
    # Nothing is kept by kopf; should it ever be, then under our name.
    settings.persistence.finalizer = f"{GROUP}/finalizer"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings


def _take(event: kopf.RawEvent, kind: Watched, record: WatchRecord) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(event["object"]["metadata"])
    if event["type"] == "DELETED":
        record.gone(kind, metadata["namespace"], metadata["uid"])
    else:
        record.brought(kind, metadata["namespace"], metadata["uid"], metadata["resourceVersion"])
    return metadata
