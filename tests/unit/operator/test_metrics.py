"""What the operator tells Prometheus of runs."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from annotationrun_api.conditions import ConditionType, condition
from annotationrun_api.reasons import Reason
from annotationrun_api.status import EpisodeCounts, GpuUse, Progress, RunStatus
from annotationrun_operator.observation import RunKey
from annotationrun_operator.telemetry.metrics import Metrics

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
RUN = RunKey("robots", "blocks")


def status(reason: Reason, holding: tuple[ConditionType, ...] = (), **fields) -> RunStatus:
    kinds = (ConditionType.READY, ConditionType.STALLED, ConditionType.COMPLETE)
    conditions = tuple(condition(kind, kind in holding, reason, generation=1, now=NOW) for kind in kinds)
    return RunStatus(conditions=conditions, **fields)


ANNOTATING = status(
    Reason.ANNOTATING,
    episodes=EpisodeCounts(total=9, done=4, failed=1),
    progress=Progress(estimated_completion_time=LATER),
    gpu=GpuUse(seconds=360, held=2),
)
COMPLETE = status(Reason.COMPLETE, (ConditionType.READY, ConditionType.COMPLETE))


def told(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Of runs: values by name and by labels, in the labels' order."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        if family.name.startswith("annotationrun_run"):
            name = family.name.removeprefix("annotationrun_")
            found[name] = {tuple(sample.labels.values()): sample.value for sample in family.samples}
    return found


def test_a_run_at_work_has_its_state_its_counts_and_its_times():
    metrics = Metrics()
    metrics.show_run(RUN, ANNOTATING, NOW)
    assert told(metrics) == {
        "runs": {("Annotating",): 1},
        "run_state": {("blocks", "robots", "Annotating"): 1},
        "run_stalled": {("blocks", "robots"): 0},
        "run_episodes": {("blocks", "robots"): 9},
        "run_episodes_done": {("blocks", "robots"): 4},
        "run_episodes_failed": {("blocks", "robots"): 1},
        "run_last_progress_timestamp_seconds": {("blocks", "robots"): NOW.timestamp()},
        "run_estimated_completion_timestamp_seconds": {("blocks", "robots"): LATER.timestamp()},
        "run_gpus": {("blocks", "robots"): 2},
        "run_gpu_seconds": {("blocks", "robots"): 360},
    }


@pytest.mark.parametrize(
    ("after", "moved_at"),
    [
        pytest.param(ANNOTATING, NOW, id="nothing"),
        pytest.param(ANNOTATING.model_copy(update={"gpu": GpuUse(seconds=999)}), NOW, id="GPU time alone"),
        pytest.param(
            ANNOTATING.model_copy(update={"episodes": EpisodeCounts(total=9, done=5, failed=1)}),
            LATER,
            id="an episode done",
        ),
        pytest.param(
            ANNOTATING.model_copy(update={"episodes": EpisodeCounts(total=9, done=4, failed=2)}),
            LATER,
            id="an episode given up",
        ),
        pytest.param(status(Reason.MERGING, episodes=ANNOTATING.episodes), LATER, id="another state"),
    ],
)
def test_progress_is_a_change_of_the_state_or_of_the_counts(after, moved_at):
    metrics = Metrics()
    metrics.show_run(RUN, ANNOTATING, NOW)
    metrics.show_run(RUN, after, LATER)
    times = told(metrics)["run_last_progress_timestamp_seconds"]
    assert times == {("blocks", "robots"): moved_at.timestamp()}


def test_a_state_takes_the_place_of_the_former():
    metrics = Metrics()
    metrics.show_run(RUN, ANNOTATING, NOW)
    metrics.show_run(RUN, status(Reason.VOLUME_NOT_FOUND, (ConditionType.STALLED,)), LATER)
    found = told(metrics)
    assert found["runs"] == {("VolumeNotFound",): 1}
    assert found["run_state"] == {("blocks", "robots", "VolumeNotFound"): 1}
    assert found["run_stalled"] == {("blocks", "robots"): 1}
    assert found["run_estimated_completion_timestamp_seconds"] == {}


@pytest.mark.parametrize("ending", ["is complete", "is gone"])
def test_a_run_has_no_series_of_its_own_once_it(ending):
    metrics = Metrics()
    metrics.show_run(RUN, ANNOTATING, NOW)
    if ending == "is gone":
        metrics.forget(RUN)
    else:
        metrics.show_run(RUN, COMPLETE, LATER)
    found = told(metrics)
    assert found.pop("runs") == ({} if ending == "is gone" else {("Complete",): 1})
    assert set(map(len, found.values())) == {0}


def test_runs_are_counted_by_state_over_all_namespaces():
    metrics = Metrics()
    for number in range(3):
        metrics.show_run(RunKey("robots", str(number)), COMPLETE, NOW)
    metrics.show_run(RunKey("toys", "0"), ANNOTATING, NOW)
    metrics.show_run(RunKey("toys", "1"), RunStatus(), NOW)
    assert told(metrics)["runs"] == {("Complete",): 3, ("Annotating",): 1, ("Unknown",): 1}
