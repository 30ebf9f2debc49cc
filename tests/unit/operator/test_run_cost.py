"""What a run has cost, in its status: tokens as its workers counted, GPU time as its pods held it."""

import pytest
from tests.support.run_world import PLAN, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.step_results import WorkerProgress

TOLD = RunUsage(
    requests=41, answered=40, retries=2, prompt_tokens=90_000, completion_tokens=6_000, gpu_seconds=77
).with_video_seconds(3_600)


def annotated(gpus: int, seconds: float) -> RunWorld:
    """A run whose one annotating pod has held its GPUs so long, and whose merge is at work."""
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    world.run_pod(Step.ANNOTATE, gpus=gpus)
    world.settle()
    world.wait(seconds)
    world.end(Step.ANNOTATE)
    world.settle()
    return world


@pytest.mark.parametrize("outcome", ["Published", "Unchanged"])
def test_a_finished_run_tells_its_cost_in_one_line(outcome):
    world = annotated(gpus=4, seconds=300)
    world.end_merge(outcome, usage=TOLD)
    world.settle()
    line = (
        "41 requests, 90,000 prompt and 6,000 output tokens, 1,200 GPU-seconds; "
        "1,200 GPU-seconds and 96,000 tokens a video-hour."
    )
    for kind in (ConditionType.COMPLETE, ConditionType.READY):
        assert world.message(kind) == f"6 of 6 episodes annotated, in data:out. {line}"


def test_gpu_time_is_that_of_the_pods_and_not_what_workers_say():
    world = annotated(gpus=4, seconds=300)
    assert world.status.usage == RunUsage(gpu_seconds=1_200)
    world.end_merge(usage=TOLD)
    world.settle()
    assert world.status.usage == TOLD.with_gpu_seconds(1_200)
    assert world.status.usage.gpu_seconds == world.status.gpu.seconds


def test_the_cost_is_that_of_all_attempts_and_gpu_time_goes_on_with_them():
    world = annotated(gpus=1, seconds=100)
    world.end_merge("Missing", done=3, results=3, usage=TOLD)
    world.settle()
    assert world.status.usage == TOLD.with_gpu_seconds(100)
    world.run_pod(Step.ANNOTATE, gpus=1)
    world.settle()
    world.wait(50)
    world.end(Step.ANNOTATE)
    world.settle()
    assert world.status.usage.gpu_seconds == world.status.gpu.seconds == 150
    total = RunUsage(requests=60, answered=59, prompt_tokens=120_000).with_video_seconds(7_200)
    world.end_merge(usage=total)
    world.settle()
    assert world.status.usage == total.with_gpu_seconds(150)


def test_a_failed_run_keeps_what_it_has_cost():
    world = annotated(gpus=1, seconds=100)
    world.end_merge("TooManyFailed", done=3, failed=3, usage=TOLD)
    world.settle()
    assert world.condition(ConditionType.FAILED)[0] == "True"
    assert world.status.usage == TOLD.with_gpu_seconds(100)


def test_a_run_that_finds_all_done_has_cost_nothing():
    world = RunWorld()
    world.settle()
    world.end_plan(pending=0)
    world.settle()
    world.end_merge(usage=RunUsage().with_video_seconds(3_600))
    world.settle()
    assert world.message().endswith("in data:out. 0 requests, 0 prompt and 0 output tokens.")


def test_questions_without_an_answer_are_told_and_stay_told_while_another_attempt_is_at_work():
    world = annotated(gpus=0, seconds=10)
    world.end_merge("Missing", done=3, unanswered=2)
    world.settle()
    world.run_pod(Step.ANNOTATE)
    world.extra = {"progress": WorkerProgress(plan=PLAN, total=6, done=5)}
    world.settle()
    assert (world.status.episodes.done, world.status.episodes.unanswered) == (5, 2)
    world.extra = {}
    world.end(Step.ANNOTATE)
    world.settle()
    world.end_merge(unanswered=4, usage=TOLD)
    world.settle()
    assert world.status.episodes.unanswered == 4
    assert "4 of the questions got no usable answer." in world.message(ConditionType.COMPLETE)
