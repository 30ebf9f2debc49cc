"""What a worker tells over HTTP: how far the plan is, and its metrics.

What a worker counts of itself, and tells Prometheus.

The counts are this worker's alone, since its start. One that dies takes its metrics along; what a whole run
has used is summed from the staging store (``staging/usage.py``).

``GET /progress`` of the annotate step: how far the whole plan is, whoever worked on it.

``GET /metrics``: what this worker does. One answer a connection, one connection at a time: the operator asks
one worker every few seconds, and Prometheus each of them now and then.
"""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.step_results import METRICS_PATH, PROGRESS_PATH, WorkerProgress, write_result
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.pipeline.report import AnnotateReport
from annotationrun_worker.staging.progress import EpisodeMarks, WorkerUsage
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.vlm.server import ServerFindings, Usage

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
        yield _family(
            "unanswered", "Questions left without a usable answer.", "module", report.unanswered_made.copy()
        )
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


LOOK_AGAIN_SECONDS: Final = 2.0
"""Between two listings of the store, which has an object for each episode."""
_WAIT_SECONDS: Final = 1.0
"""For a listing; the operator waits twice as long for its answer. Later, what was known before is told."""
_SOCKET_SECONDS: Final = 2.0
"""For each read and write of a connection."""
_CLOSE_SECONDS: Final = 3.0
"""For the connection that is there when the server closes."""


class StoreProgress:
    """Counts the marks of a plan, when it is asked to; for one thread."""

    def __init__(
        self,
        marks: EpisodeMarks,
        episodes: Iterable[int],
        server: Callable[[], ServerFindings | None] = lambda: None,
    ) -> None:
        """``episodes`` are those of the plan, ``server`` gives what is known of the model server by now."""
        self._marks = marks
        self._server = server
        self._episodes = frozenset(map(int, episodes))
        self._executor = ThreadPoolExecutor(1, "progress")
        self._look: Future[WorkerProgress] | None = None
        self._known: WorkerProgress | None = None
        self._looked_at = -LOOK_AGAIN_SECONDS

    def read(self) -> WorkerProgress:
        """The counts of a moment ago.

        Raises:
            TimeoutError: they are not known yet.
            StorageError: the store can't be read.
        """
        if self._look is None and time.monotonic() - self._looked_at >= LOOK_AGAIN_SECONDS:
            self._look = self._executor.submit(self._count)
        if self._look is not None and wait_for([self._look], _WAIT_SECONDS).done:
            look, self._look, self._looked_at = self._look, None, time.monotonic()
            self._known = look.result()
        if self._known is None:
            raise TimeoutError("the store has not been listed yet")
        return self._known

    def close(self) -> None:
        """Begin no further look at the store."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _count(self) -> WorkerProgress:
        failed = self._marks.failed_now() & self._episodes
        done = self._marks.done_now() & self._episodes
        server = self._server()
        return WorkerProgress(
            plan=self._marks.plan,
            total=len(self._episodes),
            done=len(done),
            failed=len(failed - done),
            server="" if server is None else server.line(),
        )


@contextmanager
def serve_progress(port: int, progress: StoreProgress, metrics: WorkerMetrics) -> Iterator[int]:
    """Answer within the context; gives the port, a free one for 0.

    Raises:
        ConfigurationError: the port is taken, or not allowed.
    """
    try:
        server = _Server(port, progress, metrics)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on port {port}: {error.strerror}; choose another with --progress-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="progress", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        # a client that is slow on purpose shall not keep the worker from its end
        threading.Thread(target=server.shutdown, daemon=True).start()
        thread.join(_CLOSE_SECONDS)
        server.server_close()
        progress.close()


class _Server(HTTPServer):
    """Listens on all addresses, of IPv4 and IPv6: the operator is another pod."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, progress: StoreProgress, metrics: WorkerMetrics) -> None:
        super().__init__(("", port), _Handler)
        self.progress = progress
        self.metrics = metrics

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super(HTTPServer, self).server_bind()  # without its look-up of this machine's name in the DNS
        self.server_name, self.server_port = "", self.server_address[1]

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        if not isinstance(sys.exception(), OSError):  # who asked is gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _SOCKET_SECONDS
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain"

    def do_GET(self) -> None:
        """Answer; a body is never read, the connection ends with the answer."""
        if self.path == METRICS_PATH:
            self._send(CONTENT_TYPE, self.server.metrics.text())
            return
        if self.path != PROGRESS_PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            content = write_result(self.server.progress.read()).encode()
        except (TimeoutError, AnnotationRunError):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._send("application/json", content)

    def _send(self, content_type: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        """In the header ``Server``: not which Python it is."""
        return "annotationrun"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing: it is asked again and again."""
