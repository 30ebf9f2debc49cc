"""What the operator tells Prometheus, about itself and about runs.

The labels of a run are ``run_namespace`` and ``run``: once Prometheus has scraped it, ``namespace`` is the
operator's own. A run has a few series from when it is first seen until it is complete or gone; so there are
never more than for the runs that somebody waits for.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from annotationrun_api.conditions import ConditionType, find_condition, holds
from annotationrun_api.status import EpisodeCounts, RunStatus
from annotationrun_operator.observation import RunKey

_RUN_LABELS: Final = ("run_namespace", "run")


@dataclass(frozen=True, slots=True)
class _Run:
    """What is kept of a run: little, as there may be thousands that have ended."""

    state: str
    """As ``kubectl get`` shows it: the reason of Ready."""
    episodes: EpisodeCounts
    moved_at: datetime
    """When the state or the counts were others for the last time; at the latest, when this process saw the
    run first."""
    readings: Mapping[str, float]
    """By name; none: it is complete."""


_HELP: Final = {
    "stalled": "1: nothing goes on until somebody changes something.",
    "episodes": "Episodes that the spec selects.",
    "episodes_done": "Episodes with all their results.",
    "episodes_failed": "Episodes that were given up.",
    "last_progress_timestamp_seconds": "Unix time of the last change of state or counts that was seen.",
    "estimated_completion_timestamp_seconds": "Unix time of the expected end; no series: not known.",
    "gpus": "GPUs held.",
    "gpu_seconds": "GPUs times seconds so far.",
}


class RunMetrics(Collector):
    """The runs by state, and each run that is not complete."""

    def __init__(self) -> None:
        self._runs: dict[RunKey, _Run] = {}

    def show(self, key: RunKey, status: RunStatus, now: datetime) -> None:
        """A run was left with this status."""
        ready = find_condition(status.conditions, ConditionType.READY)
        state = ready.reason if ready is not None else "Unknown"
        before = self._runs.get(key)
        stays = before is not None and (before.state, before.episodes) == (state, status.episodes)
        moved_at = before.moved_at if before is not None and stays else now
        self._runs[key] = _Run(state, status.episodes, moved_at, _read(status, moved_at))

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        self._runs.pop(key, None)

    def collect(self) -> Iterable[Metric]:
        """All of them, as Prometheus' client asks for them."""
        counts = GaugeMetricFamily("annotationrun_runs", "Runs, by state.", labels=["state"])
        for state, count in Counts(run.state for run in self._runs.values()).items():
            counts.add_metric([state], count)
        yield counts
        awaited = {key: run for key, run in self._runs.items() if run.readings}
        states = GaugeMetricFamily(
            "annotationrun_run_state",
            "1: the run is in this state, the reason of its condition Ready.",
            labels=[*_RUN_LABELS, "state"],
        )
        for key, run in awaited.items():
            states.add_metric([key.namespace, key.name, run.state], 1)
        yield states
        for name, text in _HELP.items():
            family = GaugeMetricFamily(f"annotationrun_run_{name}", text, labels=_RUN_LABELS)
            for key, run in awaited.items():
                if name in run.readings:
                    family.add_metric([key.namespace, key.name], run.readings[name])
            yield family


def _read(status: RunStatus, moved_at: datetime) -> Mapping[str, float]:
    if holds(status.conditions, ConditionType.COMPLETE):
        return {}
    end = status.progress.estimated_completion_time
    return {
        "stalled": holds(status.conditions, ConditionType.STALLED),
        "episodes": status.episodes.total,
        "episodes_done": status.episodes.done,
        "episodes_failed": status.episodes.failed,
        "last_progress_timestamp_seconds": moved_at.timestamp(),
        **({"estimated_completion_timestamp_seconds": end.timestamp()} if end else {}),
        "gpus": status.gpu.held,
        "gpu_seconds": status.gpu.seconds,
    }


CONTENT_TYPE = CONTENT_TYPE_LATEST
_RECONCILE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WRITES = frozenset({"create", "update", "delete"})


# Else a second series for each counter and histogram, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR):
            registry.register(collector)
        ProcessCollector(registry=registry)
        self._registry = registry
        self._runs = RunMetrics()
        registry.register(self._runs)
        self._reconciles = Counter(
            "annotationrun_reconciles", "Runs reconciled, by how that ended.", ["outcome"], registry=registry
        )
        self._reconcile_seconds = Histogram(
            "annotationrun_reconcile_seconds",
            "Seconds that reconciling a run took.",
            buckets=_RECONCILE_SECONDS,
            registry=registry,
        )
        self._errors = Counter(
            "annotationrun_errors",
            "Runs whose reconciling ended with an error, by its class.",
            ["error"],
            registry=registry,
        )
        self._requests = Counter(
            "annotationrun_api_requests",
            "Requests to the API server; code 0: no answer.",
            ["verb", "resource", "code"],
            registry=registry,
        )
        self._writes = Counter(
            "annotationrun_api_writes",
            "Writes that the API server has accepted.",
            ["verb", "resource"],
            registry=registry,
        )

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Have a number read whenever the metrics are asked for."""
        Gauge(name, help_text, registry=self._registry).set_function(read)

    def count_request(self, verb: str, resource: str, code: int) -> None:
        """A request to the API server has ended."""
        self._requests.labels(verb, resource, str(code)).inc()
        if verb in _WRITES and 200 <= code < 300:
            self._writes.labels(verb, resource).inc()

    def count_reconcile(self, seconds: float, error: BaseException | None) -> None:
        """A run was reconciled, or that failed with an error."""
        self._reconcile_seconds.observe(seconds)
        self._reconciles.labels("ok" if error is None else "error").inc()
        if error is not None:
            self._errors.labels(type(error).__name__).inc()

    def show_run(self, key: RunKey, status: RunStatus, now: datetime) -> None:
        """A run was left with this status."""
        self._runs.show(key, status, now)

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        self._runs.forget(key)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
