"""What a worker counts of itself, and tells Prometheus.

The counts are this worker's alone, since its start. One that dies takes its metrics along; what a whole run
has used is summed from the staging store (``staging/usage.py``).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from annotationrun_api.run_usage import RunUsage
from annotationrun_worker.frames.protocol import FrameCounts
from annotationrun_worker.run.report import AnnotateReport
from annotationrun_worker.staging.usage import WorkerUsage
from annotationrun_worker.vlm.usage import Usage

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_PREFIX: Final = "annotationrun_worker"


@dataclass(slots=True)
class Account:
    """What one worker has asked and held, up to now; may be read from any thread."""

    name: str
    """Under which the counts of all workers of the run are staged."""
    gpus: int = 0
    """Held by the server beside the worker; 0: none, or not known."""
    asked: Mapping[str, Usage] = field(default_factory=dict)
    """By kind of question."""
    clock: Callable[[], float] = time.monotonic
    _start_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self._start_seconds = self.clock()

    @property
    def seconds(self) -> float:
        """Since the worker's start."""
        return self.clock() - self._start_seconds

    def read(self) -> WorkerUsage:
        """The counts now."""
        seconds, total = self.seconds, Usage()
        for usage in list(self.asked.values()):  # at once: the worker goes on meanwhile
            total.add(usage)
        return WorkerUsage(
            **asdict(total), worker_seconds=round(seconds), gpu_seconds=round(seconds * self.gpus)
        )


@dataclass(frozen=True, slots=True, eq=False)
class WorkerMetrics(Collector):
    """The metrics of one worker, read where the counts are kept, whenever Prometheus asks."""

    account: Account
    report: AnnotateReport
    frames: Callable[[], FrameCounts]

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """For prometheus_client."""
        used, report = self.account.read(), self.report
        yield _family(
            "requests",
            "Requests to the model, by whether they got an answer.",
            "outcome",
            {"answered": used.answered, "failed": used.failed},
        )
        yield _single("request_retries", "Times that a request was sent again.", used.retries)
        yield _family(
            "tokens",
            "Tokens of prompts and answers; cached: of the prompts', those that the server had in its cache.",
            "kind",
            {
                "prompt": used.prompt_tokens,
                "completion": used.completion_tokens,
                "cached": used.cached_tokens,
            },
        )
        yield _family("holes", "Questions left without a usable answer.", "module", report.holes_made.copy())
        yield _family(
            "episodes",
            "Episodes that this worker finished, or that failed here.",
            "outcome",
            {"done": report.episodes_finished, "failed": report.episodes_failed_here},
        )
        frames = self.frames()
        yield _family(
            "frames",
            "Frames that were asked for, by how they were had, or that they could not be.",
            "outcome",
            {"decoded": frames.decoded, "cached": frames.from_cache, "failed": frames.failed},
        )
        yield _single("gpu_seconds", "GPUs of the server beside the worker, times seconds.", used.gpu_seconds)


def _single(name: str, meaning: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}_{name}", meaning, value=value)


def _family(name: str, meaning: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_PREFIX}_{name}", meaning, labels=[label])
    for word, value in sorted(values.items()):
        family.add_metric([word], value)
    return family


def cost_of(used: WorkerUsage, video_seconds: float) -> RunUsage:
    """What was ``used`` for so much video."""
    counts = asdict(used)
    return RunUsage(requests=used.requests, **counts).with_video_seconds(round(video_seconds))
