"""Pods that are to go: they are stopped at once, and nothing begins beside a merge that still writes."""

import pytest
from tests.support.run_world import RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_operator.core.status import DeleteJob


def test_a_run_that_fails_lets_its_pods_go_in_the_pass_that_says_so():
    world = RunWorld()
    world.edit(activeDeadlineSeconds=100)
    world.go_to(Step.ANNOTATE)
    world.run_pod(Step.ANNOTATE)
    world.settle()
    job = world.job(Step.ANNOTATE)
    world.wait(101)
    decision = world.step()
    assert world.condition(ConditionType.FAILED) == ("True", "ActiveDeadlineExceeded")
    assert decision.actions == (DeleteJob(job.name, job.uid),)


@pytest.mark.parametrize(
    ("edit", "then"),
    [
        pytest.param({"seed": 7}, Step.PLAN, id="what is planned"),
        pytest.param({"failurePolicy": {"maxFailedEpisodes": 1}}, Step.MERGE, id="what is merged"),
    ],
)
def test_nothing_begins_while_the_pod_of_a_deleted_merge_still_writes(edit, then):
    world = RunWorld()
    world.go_to(Step.MERGE)
    world.run_pod(Step.MERGE)
    job = world.job(Step.MERGE)
    writing = world.pods[job.name]
    world.edit(**edit)
    world.step()
    assert world.live == []
    world.pods[job.name] = writing  # the Job is gone, and the pod takes its time
    world.settle()
    assert world.live == []
    assert world.condition(ConditionType.READY) == ("False", "Stopping")
    del world.pods[job.name]
    world.settle()
    assert world.live == [then]
