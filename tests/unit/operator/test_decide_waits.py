"""Runs that can't start, or whose pods don't: what is said of it, and what is done."""

import pytest
from tests.support.run_world import RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_operator.observation import ClaimView, ContainerView, JobEvent, Refusal

ANNOTATING = Step.ANNOTATE
READY, FAILED, STALLED = ConditionType.READY, ConditionType.FAILED, ConditionType.STALLED


@pytest.mark.parametrize(
    ("spec", "claims", "reason", "said"),
    [
        pytest.param({"seed": -1}, None, Reason.INVALID_SPEC, "spec.seed", id="a wrong value"),
        pytest.param({"staging": {}}, None, Reason.INVALID_SPEC, "spec.staging", id="no staging"),
        pytest.param(
            {"staging": {"uri": "file:///tmp/staging"}},
            None,
            Reason.INVALID_SPEC,
            "spec.staging.volume",
            id="staging in a folder of each pod",
        ),
        pytest.param(
            {"source": {"path": "in"}}, None, Reason.INVALID_SPEC, "spec.source.volume", id="no volume"
        ),
        pytest.param({}, {}, Reason.VOLUME_NOT_FOUND, "'data'", id="no claim"),
        pytest.param(
            {}, {"data": ClaimView("data", ("ReadWriteOnce",), "Bound")},
            Reason.VOLUME_ACCESS_MODE, "parallelism is 3", id="a claim for one node",
        ),
    ],
)  # fmt: skip
def test_a_run_that_can_not_start_is_stalled_and_starts_when_it_is_mended(spec, claims, reason, said):
    world = RunWorld()
    good = dict(world.manifest["spec"])
    world.edit(**spec)
    if claims is not None:
        world.claims = claims
    world.settle()
    assert world.created == []
    assert world.condition(STALLED) == ("True", reason.value)
    assert world.condition(READY) == ("False", reason.value)
    assert said in world.message()
    world.manifest["spec"], world.generation = good, world.generation + 1
    world.claims = RunWorld().claims
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


def test_one_worker_may_use_a_claim_for_one_node():
    world = RunWorld(claims={"data": ClaimView("data", ("ReadWriteOnce",), "Bound")})
    world.edit(workers={"parallelism": 1})
    world.complete()
    assert world.condition(READY) == ("True", "Complete")


WAITS = [
    pytest.param(
        {"is_scheduled": False, "unscheduled_reason": "Unschedulable", "unscheduled_message": "0/3 nodes"},
        Reason.UNSCHEDULABLE,
        "0/3 nodes",
        id="unschedulable",
    ),
    pytest.param(
        {
            "containers": (
                ContainerView(
                    "vllm", "nowhere/x", waiting_reason="ImagePullBackOff", waiting_message="no such"
                ),
            )
        },
        Reason.IMAGE_PULL_FAILED,
        "'nowhere/x'",
        id="image",
    ),
    pytest.param(
        {
            "containers": (
                ContainerView(
                    "worker",
                    waiting_reason="CreateContainerConfigError",
                    waiting_message='secret "k" not found',
                ),
            )
        },
        Reason.CONTAINER_CONFIG_INVALID,
        'secret "k" not found',
        id="secret",
    ),
]


@pytest.mark.parametrize(("pod", "reason", "said"), WAITS)
def test_pods_that_do_not_start_are_told_and_removed_at_the_deadline(pod, reason, said):
    world = RunWorld()
    world.edit(startDeadlineSeconds=100)
    world.go_to(ANNOTATING)
    world.put_pod(ANNOTATING, **pod)
    decision = world.settle()
    assert world.condition(READY) == ("False", reason.value)
    assert said in world.message()
    assert 0 < decision.recheck_seconds <= 100
    world.wait(100)
    world.settle()
    assert world.live == []
    assert world.condition(FAILED) == ("True", "StartDeadlineExceeded")
    assert said in world.message()
    assert reason.remedy in world.message()


def test_a_quota_that_refuses_the_pods_is_told_by_the_jobs_events():
    world = RunWorld()
    world.go_to(ANNOTATING)
    world.extra["job_events"] = (
        JobEvent("FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus, requested: 1, used: 8'),
    )
    world.settle()
    assert world.condition(READY) == ("False", "QuotaExceeded")
    assert "exceeded quota: gpus" in world.message()


def test_a_refused_create_is_tried_again_slowly():
    world = RunWorld()
    decision = world.decide()
    world.status = decision.status  # written; the create is refused
    (create,) = decision.actions
    message = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1'
    world.extra["refusal"] = Refusal(create.name, 403, message, world.now)
    world.wait(10)
    decision = world.step()
    assert decision.actions == ()
    assert decision.recheck_seconds == 50
    assert world.condition(READY) == ("False", "QuotaExceeded")
    world.wait(50)
    assert [action.name for action in world.decide().actions] == [create.name]


def test_a_job_of_our_name_that_is_not_ours_is_told():
    world = RunWorld()
    decision = world.decide()
    world.status = decision.status
    refusal = Refusal(decision.actions[0].name, 409, "Job x of somebody", world.now, is_conflict=True)
    world.extra["refusal"] = refusal
    world.step()
    assert world.condition(READY) == ("False", "JobConflict")
