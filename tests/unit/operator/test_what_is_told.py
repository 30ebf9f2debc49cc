"""What is told of a run that goes on: failed episodes, settings without effect."""

from tests.support.run_world import PLAN, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.step_results import WorkerProgress


def test_settings_without_effect_are_told_once_for_each_edit_and_hold_nothing_up():
    world = RunWorld()
    told = []
    serving = {"mode": "External", "endpoints": ["http://vlm:8000/v1"], "image": "vllm:2"}
    for edit in ({"model": {"id": "demo-vlm", "serving": serving}}, {"ttlSecondsAfterFinished": 5}):
        world.edit(**edit)
        for _ in range(3):
            told += [it for it in world.step().announcements if it.reason is Reason.SETTINGS_WITHOUT_EFFECT]
    assert [it.type for it in told] == ["Warning", "Warning"]
    assert "spec.model.serving.image (only with spec.model.serving.mode Sidecar" in told[0].message
    world.complete()
    assert world.condition(ConditionType.READY) == ("True", "Complete")


def test_failed_episodes_are_told_beside_those_that_are_done():
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    world.run_pod(Step.ANNOTATE)
    world.extra["progress"] = WorkerProgress(plan=PLAN, total=6, done=2, failed=1)
    world.settle()
    assert world.status.progress.text == "50% (2/6, 1 failed)"
    assert "2 of 6 episodes are done, 1 failed." in world.message()
