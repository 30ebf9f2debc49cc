"""What the operator tells Prometheus."""

from collections.abc import Callable
from datetime import datetime

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

from annotationrun_api.status import RunStatus
from annotationrun_operator.run_key import RunKey
from annotationrun_operator.run_metrics import RunMetrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
_PASS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
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
        self._passes = Counter(
            "annotationrun_passes", "Passes over runs, by how they ended.", ["outcome"], registry=registry
        )
        self._pass_seconds = Histogram(
            "annotationrun_pass_seconds", "Seconds of a pass.", buckets=_PASS_SECONDS, registry=registry
        )
        self._errors = Counter(
            "annotationrun_errors",
            "Passes that ended with an error, by its class.",
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

    def count_pass(self, seconds: float, error: BaseException | None) -> None:
        """A pass has ended."""
        self._pass_seconds.observe(seconds)
        self._passes.labels("ok" if error is None else "error").inc()
        if error is not None:
            self._errors.labels(type(error).__name__).inc()

    def show_run(self, key: RunKey, status: RunStatus, now: datetime) -> None:
        """A pass has left a run with this status."""
        self._runs.show(key, status, now)

    def forget(self, key: RunKey) -> None:
        """A run is gone."""
        self._runs.forget(key)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
