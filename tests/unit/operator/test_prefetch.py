"""A model is fetched into its claim before the workers start; what becomes of a run if that fails."""

import copy
import json

import pytest
from tests.support.run_world import COMMIT, MANIFEST, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_operator.observation import ClaimView

READY, FAILED = ConditionType.READY, ConditionType.FAILED
SERVING = {"cache": {"claimName": "models"}}


def a_world(model_id="org/model", **serving):
    manifest = copy.deepcopy(MANIFEST)
    manifest["spec"]["model"] = {"id": model_id, "serving": SERVING | serving}
    world = RunWorld(manifest=manifest)
    world.claims["models"] = ClaimView("models", ("ReadWriteMany",), "Bound")
    return world


def created(world) -> list[str]:
    return [job["metadata"]["labels"]["annotationrun.dev/step"] for job in world.created]


def server_of_last(world):
    (server,) = world.created[-1]["spec"]["template"]["spec"]["initContainers"]
    return server


def is_offline(server) -> bool:
    return any(variable["name"] == "HF_HUB_OFFLINE" for variable in server["env"])


def test_the_model_is_fetched_before_any_gpu_is_asked_for_and_the_servers_read_it_offline():
    world = a_world()
    world.go_to(Step.PREFETCH)
    assert world.status.prefetch.attempt == 1
    world.run_pod(Step.PREFETCH)
    world.settle()
    assert world.condition(READY) == ("False", "FetchingModel")
    world.end_prefetch()
    world.settle()
    assert world.live == [Step.ANNOTATE]
    assert world.status.prefetch.commit == COMMIT
    assert f"--revision={COMMIT}" in server_of_last(world)["args"]
    assert is_offline(server_of_last(world))
    world.complete()
    assert created(world) == ["plan", "prefetch", "annotate", "merge"]
    assert world.condition(ConditionType.COMPLETE)[0] == "True"


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(a_world("/mnt/model"), id="a folder"),
        pytest.param(a_world("s3://bucket/model"), id="an object store"),
        pytest.param(a_world(mode="External", endpoints=["http://vlm:8000/v1"]), id="servers of others"),
        pytest.param(a_world(cache=None), id="no claim"),
    ],
)
def test_nothing_is_fetched_where_nothing_is_to_be_kept(world):
    world.complete()
    assert created(world) == ["plan", "annotate", "merge"]


def test_servers_of_others_need_no_claim_for_the_model():
    world = a_world(mode="External", endpoints=["http://vlm:8000/v1"])
    del world.claims["models"]
    world.complete()
    assert world.condition(ConditionType.COMPLETE)[0] == "True"
    assert created(world) == ["plan", "annotate", "merge"]
    assert "models" not in json.dumps([job["spec"]["template"]["spec"] for job in world.created])


def test_servers_of_others_are_asked_by_several_workers_whatever_the_claim_can_serve():
    world = a_world(mode="External", endpoints=["http://vlm:8000/v1"])
    world.claims["models"] = ClaimView("models", ("ReadWriteOnce",), "Bound")
    world.complete()
    assert world.condition(ConditionType.COMPLETE)[0] == "True"


def test_nothing_is_fetched_where_nothing_is_to_be_asked():
    world = a_world()
    world.settle()
    world.end_plan(pending=0)
    world.settle()
    assert world.live == [Step.MERGE]


@pytest.mark.parametrize(
    ("code", "exit_reason", "reason"),
    [
        pytest.param(ExitCode.CONFIGURATION, "", "ModelDownloadFailed", id="no such model"),
        pytest.param(ExitCode.STORAGE, "", "ModelDownloadFailed", id="no room"),
        pytest.param(ExitCode.FAILED, "", "ModelDownloadFailed", id="no network"),
        pytest.param(137, "OOMKilled", "OutOfMemory", id="too little memory"),
    ],
)
def test_a_model_that_can_not_be_fetched_ends_the_run_with_what_was_said_and_what_to_do(
    code, exit_reason, reason
):
    world = a_world()
    world.go_to(Step.PREFETCH)
    world.end(Step.PREFETCH, code, "the model is gated", exit_reason)
    world.settle()
    assert world.condition(FAILED) == ("True", reason)
    assert world.live == []
    if reason == "ModelDownloadFailed":
        assert "the model is gated" in world.message()
        assert "tokenSecretRef" in world.message()


def test_a_new_retry_token_fetches_the_model_again():
    world = a_world()
    world.go_to(Step.PREFETCH)
    world.end(Step.PREFETCH, ExitCode.CONFIGURATION, "gated")
    world.settle()
    world.edit(retryToken="2")
    world.go_to(Step.PREFETCH)
    world.end_prefetch()
    world.settle()
    assert world.live == [Step.ANNOTATE]
    assert world.status.prefetch.attempt == 2


def test_another_claim_is_filled_for_the_next_workers_and_leaves_those_at_work_alone():
    world = a_world()
    world.go_to(Step.ANNOTATE)
    world.claims["other"] = ClaimView("other", ("ReadWriteMany",), "Bound")
    world.edit(model={"id": "org/model", "serving": {"cache": {"claimName": "other"}}})
    world.settle()
    assert world.live == [Step.ANNOTATE], "it goes on as it is"
    world.end(Step.ANNOTATE)
    world.settle()
    world.end_merge("Missing", done=3)
    world.settle()
    assert world.live == [Step.PREFETCH]
    world.end_prefetch("12" * 20)
    world.settle()
    assert f"--revision={'12' * 20}" in server_of_last(world)["args"]


def test_a_suspended_prefetch_is_begun_again_and_a_finished_one_is_not():
    world = a_world()
    world.go_to(Step.PREFETCH)
    world.edit(suspend=True)
    world.settle()
    assert world.live == []
    world.edit(suspend=False)
    world.settle()
    assert world.live == [Step.PREFETCH]
    world.end_prefetch()
    world.settle()
    world.edit(suspend=True)
    world.settle()
    world.edit(suspend=False)
    world.settle()
    assert world.live == [Step.ANNOTATE]
    assert created(world) == ["plan", "prefetch", "prefetch", "annotate", "annotate"]


def test_a_prefetch_that_tells_nothing_is_tried_again_three_times_at_most():
    world = a_world()
    world.go_to(Step.PREFETCH)
    for _ in range(3):
        world.end(Step.PREFETCH, 0, "no JSON")
        world.settle()
    assert world.condition(FAILED) == ("True", "InternalError")
    assert created(world).count("prefetch") == 3


def test_without_the_claim_the_next_servers_download_the_model_themselves():
    world = a_world()
    world.go_to(Step.ANNOTATE)
    world.edit(model={"id": "org/model"})
    world.end(Step.ANNOTATE)
    world.settle()
    world.end_merge("Missing", done=3)
    world.settle()
    assert world.live == [Step.ANNOTATE]
    assert not is_offline(server_of_last(world))
    assert "--revision=main" in server_of_last(world)["args"]


def test_each_plan_looks_anew_whether_the_claim_holds_the_model():
    world = a_world()
    world.complete()
    world.edit(retryToken="2")
    world.go_to(Step.ANNOTATE)
    assert created(world) == ["plan", "prefetch", "annotate", "merge", "plan", "prefetch", "annotate"]


def test_what_was_planned_is_fetched_and_another_commit_is_fetched_after_the_next_plan():
    world = a_world()
    for commit, request in (("ab" * 20, "1"), ("cd" * 20, "2")):
        world.edit(retryToken=request)
        world.settle()
        assert world.live == [Step.PLAN]
        assert world.status.plan.model_commit == ""
        world.end_plan(model_commit=commit)
        world.settle()
        assert world.status.plan.model_commit == commit
        assert commit in world.message(ConditionType.PLANNED)
        for step in (Step.PREFETCH, Step.ANNOTATE, Step.MERGE):
            assert world.live == [step]
            arguments = world.created[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
            assert arguments[arguments.index("--model-revision") + 1] == commit
            if step is Step.ANNOTATE:
                assert f"--revision={commit}" in server_of_last(world)["args"]
            if step is Step.PREFETCH:
                world.end_prefetch(commit)
            elif step is Step.ANNOTATE:
                world.end(step)
            else:
                world.end_merge()
            world.settle()
    assert created(world) == 2 * ["plan", "prefetch", "annotate", "merge"]


def test_the_commit_that_was_planned_stays_until_the_next_plan():
    """Though the annotate step has a second attempt, and its claim is another one."""
    world = a_world()
    world.settle()
    world.end_plan(model_commit="ab" * 20)
    world.go_to(Step.ANNOTATE)
    world.claims["other"] = ClaimView("other", ("ReadWriteMany",), "Bound")
    world.edit(model={"id": "org/model", "serving": {"cache": {"claimName": "other"}}})
    world.end(Step.ANNOTATE)
    world.settle()
    world.end_merge("Missing", done=3)
    world.settle()
    assert world.live == [Step.PREFETCH]
    arguments = world.created[-1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--model-revision") + 1] == "ab" * 20


def test_a_model_that_others_serve_from_now_on_is_planned_anew():
    """What they serve nobody knows: the results are no longer those of a commit."""
    world = a_world()
    world.settle()
    world.end_plan(model_commit="ab" * 20)
    world.go_to(Step.ANNOTATE)
    world.edit(
        model={"id": "org/model", "serving": {"mode": "External", "endpoints": ["http://vlm:8000/v1"]}}
    )
    world.settle()
    assert world.live == [Step.PLAN]
    assert world.status.plan.model_commit == ""


def test_a_plan_after_a_push_by_others_fetches_the_model_that_it_found():
    world = a_world()
    world.settle()
    world.end_plan(model_commit="ab" * 20)
    world.settle()
    world.end_prefetch("ab" * 20)
    world.go_to(Step.MERGE)
    world.end(Step.MERGE, ExitCode.OUTPUT_MOVED, "somebody pushed")
    world.settle()
    assert world.live == [Step.PLAN]
    world.end_plan(plan="fe" * 32, model_commit="cd" * 20)
    world.settle()
    assert world.live == [Step.PREFETCH]
    world.end_prefetch("cd" * 20)
    world.settle()
    assert f"--revision={'cd' * 20}" in server_of_last(world)["args"]
