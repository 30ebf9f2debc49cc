"""The operator's process: ``python -m annotationrun_operator``. Settings come from the environment."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import kopf

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import GROUP, PLURAL
from annotationrun_operator.cluster.api import ClusterApi, connected
from annotationrun_operator.cluster.progress_client import ProgressClient, progress_client
from annotationrun_operator.cluster.watches import Resync, ResyncSettings, WatchRecord
from annotationrun_operator.cluster.work_queue import WorkQueue
from annotationrun_operator.core.decide import decide
from annotationrun_operator.errors import (
    ApiRefusedError,
    ApiUnavailableError,
    ConnectionSettingsError,
    SettingsError,
    retry_seconds,
)
from annotationrun_operator.handlers import make_registry, make_settings
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.observation import RunKey
from annotationrun_operator.reconcile import Reconciler
from annotationrun_operator.settings import OperatorSettings, read_job_settings, read_settings
from annotationrun_operator.telemetry.health import Health, Patience, serving_health, serving_metrics
from annotationrun_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 5.0


async def wait_until_served(
    api: ClusterApi, scopes: Sequence[str | None], retry_seconds: float = _RETRY_SECONDS
) -> None:
    """Wait until the API server serves runs and lets the operator list them, their Jobs and their pods.

    It may take until somebody installs the CRD, or mends a role: the log says what is missing.
    """
    told = ""
    while True:
        try:
            missing = await _missing(api, scopes)
        except ApiUnavailableError as error:
            missing = f"the API server does not answer: {error}"
        except ApiRefusedError as error:
            missing = f"the role of the operator does not suffice: {error}"
        except AnnotationRunError as error:
            missing = str(error)
        if not missing:
            return
        if missing != told:
            logger.warning("waiting: %s", missing)
            told = missing
        await asyncio.sleep(retry_seconds)


async def _missing(api: ClusterApi, scopes: Sequence[str | None]) -> str:
    if not await api.is_served():
        return f"the custom resource {PLURAL}.{GROUP} is not served; install the CRD"
    for scope in scopes:
        async for _ in api.list_run_versions(scope):
            break
        await api.check_children(scope)
    return ""


DEFAULT_PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class Parts:
    """What one operator is made of."""

    queue: WorkQueue[RunKey]
    record: WatchRecord
    resync: Resync
    health: Health


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings, jobs = read_settings(os.environ), read_job_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return ExitCode.CONFIGURATION
    log_format = kopf.LogFormat.JSON if settings.log_format == "json" else kopf.LogFormat.FULL
    kopf.configure(log_format=log_format, log_prefix=False)
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # else a line for each event of each pod
    try:
        asyncio.run(run_operator(settings, jobs))
    except ConnectionSettingsError as error:
        logger.error("%s", error)
        return ExitCode.CONFIGURATION
    except AnnotationRunError as error:
        logger.error("%s", error)
        return ExitCode.FAILED
    return ExitCode.OK


async def run_operator(settings: OperatorSettings, jobs: JobSettings) -> None:
    """Watch and reconcile runs until a signal comes.

    Raises:
        ConnectionSettingsError: there is no way to an API server.
    """
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(connected(metrics.count_request))
        progress = await stack.enter_async_context(progress_client())
        parts = make_parts(api, progress, metrics, settings, jobs)
        health_port = await stack.enter_async_context(serving_health(parts.health, settings.health_port))
        metrics_port = await stack.enter_async_context(serving_metrics(metrics, settings.metrics_port))
        logger.info("health on port %d, metrics on port %d", health_port, metrics_port)
        await _serve(api, parts, settings)


async def _serve(api: ClusterApi, parts: Parts, settings: OperatorSettings) -> None:
    """Until a signal comes. A part that ends before is a defect, and ends the others."""
    # When kopf ends it ends every task that was begun after it; so ours begin before.
    tasks = [asyncio.create_task(parts.queue.run())]
    await parts.queue.started.wait()
    try:
        if not await _wait_until_served(api, settings):
            return
        tasks.append(asyncio.create_task(parts.resync.run()))
        parts.health.is_ready = True
        tasks.append(asyncio.create_task(watch(parts, settings)))
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _wait_until_served(api: ClusterApi, settings: OperatorSettings) -> bool:
    """False: a signal came first. Kopf sets handlers of its own later."""
    waiting = asyncio.create_task(wait_until_served(api, settings.scopes))
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, waiting.cancel)
    await asyncio.wait([waiting])
    return not waiting.cancelled() and waiting.result() is None


async def watch(parts: Parts, settings: OperatorSettings, stop: asyncio.Event | None = None) -> None:
    """Mark runs as kopf tells of them, until a signal comes, or `stop` is set."""
    await kopf.operator(
        registry=make_registry(parts.queue.enqueue, parts.record),
        settings=make_settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )


def make_parts(
    api: ClusterApi,
    progress: ProgressClient,
    metrics: Metrics,
    settings: OperatorSettings,
    jobs: JobSettings,
    patience: Patience = DEFAULT_PATIENCE,
) -> Parts:
    """Put the operator together."""
    record = WatchRecord(has_watch_by_namespace=bool(settings.namespaces))
    reconciler = Reconciler(api, progress, partial(decide, settings=jobs), record, metrics)
    queue = WorkQueue(reconciler.reconcile, retry_seconds)
    often = ResyncSettings(patience.list_seconds, settings.resync_seconds)
    resync = Resync(api, settings.scopes, record, queue.enqueue, often)
    metrics.gauge("annotationrun_queue_length", "Runs that wait to be reconciled.", lambda: queue.length)
    metrics.gauge(
        "annotationrun_watch_behind_seconds",
        "How long a watch that owes what a list has shown has brought nothing; 0: none owes.",
        lambda: record.behind_seconds,
    )
    metrics.gauge(
        "annotationrun_list_age_seconds",
        "Seconds since the runs were listed last.",
        lambda: resync.list_age_seconds,
    )
    return Parts(queue, record, resync, Health(queue, record, resync, patience))


if __name__ == "__main__":
    sys.exit(main())
