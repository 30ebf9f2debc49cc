"""What a worker counts of itself: its sums, and how Prometheus is told."""

import re
from collections import Counter
from dataclasses import fields

from prometheus_client.parser import text_string_to_metric_families
from tests.support.checkout import ROOT

from annotationrun_worker.pipeline.progress import Account, WorkerMetrics, cost_of
from annotationrun_worker.pipeline.report import AnnotateReport
from annotationrun_worker.staging.progress import WorkerUsage
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.vlm.server import Usage

ASKED = {
    "vqa": Usage(answered=3, failed=1, retries=2, prompt_tokens=300, completion_tokens=30, cached_tokens=100),
    "plan": Usage(answered=1, prompt_tokens=500, completion_tokens=70),
}
USED = WorkerUsage(
    answered=4, failed=1, retries=2, prompt_tokens=800, completion_tokens=100, cached_tokens=100
)
DASHBOARD = ROOT / "helm/annotationrun/files/dashboard.json"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def account(gpus: int = 0, seconds: float = 0.0) -> Account:
    clock = Clock()
    found = Account("run", gpus, ASKED, clock)
    clock.now += seconds
    return found


def test_an_account_sums_all_kinds_of_questions_and_counts_gpus_from_the_start():
    assert account().read() == USED
    found = account(gpus=4, seconds=10.4).read()
    assert (found.worker_seconds, found.gpu_seconds) == (10, 42)
    assert found.tokens_per_second == 90.0
    assert found.requests == 5


def test_the_sum_of_two_workers_has_every_count_of_both():
    counts = {counted.name: number for number, counted in enumerate(fields(WorkerUsage), start=1)}
    one = WorkerUsage(**counts)
    assert one + WorkerUsage() == one
    assert one + one == WorkerUsage(**{name: 2 * number for name, number in counts.items()})
    usage = Usage(1, 2, 3, 4, 5, 6)
    usage.add(usage)
    assert usage == Usage(2, 4, 6, 8, 10, 12)


def test_the_cost_of_a_run_has_what_its_workers_counted():
    cost = cost_of(account(gpus=1, seconds=36.0).read(), video_seconds=71.8)
    assert (cost.requests, cost.answered, cost.retries) == (5, 4, 2)
    assert (cost.prompt_tokens, cost.completion_tokens, cost.cached_tokens) == (800, 100, 100)
    assert (cost.gpu_seconds, cost.video_seconds) == (36, 72)
    assert (cost.gpu_seconds_per_video_hour, cost.tokens_per_video_hour) == (1_800, 45_000)


def told(report: AnnotateReport | None = None) -> dict[tuple[str, ...], float]:
    """Values by name and label."""
    metrics = WorkerMetrics(
        account(gpus=2, seconds=60),
        report or AnnotateReport(),
        lambda: FrameCounts(asked=17, decoded=7, from_cache=9, failed=1),
    )
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        (sample.name.removeprefix("annotationrun_worker_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_prometheus_is_told_every_count():
    report = AnnotateReport(episodes_finished=5, episodes_failed_here=2, unanswered_made=Counter(vqa=3))
    assert told(report) == {
        ("requests_total", "answered"): 4,
        ("requests_total", "failed"): 1,
        ("request_retries_total",): 2,
        ("tokens_total", "prompt"): 800,
        ("tokens_total", "completion"): 100,
        ("tokens_total", "cached"): 100,
        ("unanswered_total", "vqa"): 3,
        ("episodes_total", "done"): 5,
        ("episodes_total", "failed"): 2,
        ("frames_total", "decoded"): 7,
        ("frames_total", "cached"): 9,
        ("frames_total", "failed"): 1,
        ("gpu_seconds_total",): 120,
    }


def test_the_dashboard_asks_for_metrics_that_there_are():
    asked = set(re.findall(r"annotationrun_worker_(\w+)", DASHBOARD.read_text(encoding="utf-8")))
    assert asked
    assert asked <= {name for name, *_ in told(AnnotateReport(unanswered_made=Counter(vqa=1)))}
