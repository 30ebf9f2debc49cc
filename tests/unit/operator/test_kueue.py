"""Kueue holds Jobs, writes into them, and takes them back in mid-run: the operator leaves that to it."""

import copy
from dataclasses import replace

import pytest
from tests.support.run_world import CACHED_MODEL, MANIFEST, PLAN, SETTINGS, RunWorld

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import KUEUE_QUEUE_LABEL, SPEC_DIGEST_ANNOTATION, Step
from annotationrun_api.manifest import parse_object
from annotationrun_operator.cluster.observe import is_job_of, is_ours_to_adopt, view_job
from annotationrun_operator.manifests.jobs import JobPlan, make_job

READY, FAILED, STALLED = ConditionType.READY, ConditionType.FAILED, ConditionType.STALLED
WORKING = {
    Step.PLAN: "Planning",
    Step.PREFETCH: "FetchingModel",
    Step.ANNOTATE: "Annotating",
    Step.MERGE: "Merging",
}
FLAVOR = {"nodeSelector": {"pool": "a100"}, "tolerations": [{"key": "a100", "operator": "Exists"}]}
"""What a ResourceFlavor injects into the pod template."""


class QueuedWorld(RunWorld):
    """A run with a queue; its Jobs are held until `admit`."""

    def __init__(self, **spec) -> None:
        super().__init__()
        self.edit(queueName="gpus", model=CACHED_MODEL, **spec)

    def admit(self, step: Step, **changes) -> dict:
        """Let the step's Job go, with what Kueue writes into it; the object as the API server has it then."""
        raw = copy.deepcopy(self.created[-1])
        raw["metadata"] |= {"uid": self.job(step).uid, "creationTimestamp": self.now.isoformat()}
        raw["spec"] |= {"suspend": False, **changes}
        raw["spec"]["template"]["spec"] |= FLAVOR
        self.jobs[raw["metadata"]["name"]] = view_job(raw)
        return raw

    def evict(self, step: Step) -> None:
        """Suspend the step's Job; the Job controller removes its pods."""
        job = self.job(step)
        self.jobs[job.name] = replace(job, is_suspended=True)
        self.pods.pop(job.name, None)

    def go_to(self, step: Step) -> None:
        """Admit all Jobs before the step's; that one waits in the queue."""
        self.settle()
        while self.live != [step]:
            (current,) = self.live
            self.admit(current)
            self.end_well(current)
            self.settle()


def made(step: Step, labels=None, **spec) -> dict:
    """The Job of a step of a run with these labels, whose spec has these fields too."""
    value = copy.deepcopy(MANIFEST)
    value["spec"].update(spec)
    world = RunWorld(manifest=value, labels=labels or {})
    plan = JobPlan(step, 1, "run-step-12345678", PLAN, 2)
    return make_job(world.observe().run, parse_object(value, "run"), plan, SETTINGS)


@pytest.mark.parametrize("step", Step)
def test_the_jobs_of_all_steps_wait_in_the_queue(step):
    job = made(step, queueName="gpus")
    assert job["metadata"]["labels"][KUEUE_QUEUE_LABEL] == "gpus"
    assert job["spec"]["suspend"] is True


@pytest.mark.parametrize("step", Step)
def test_a_label_of_the_run_alone_names_the_queue_too(step):
    job = made(step, {KUEUE_QUEUE_LABEL: "gpus"})
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"][KUEUE_QUEUE_LABEL] == "gpus"


@pytest.mark.parametrize("step", Step)
def test_labels_for_kueue_reach_the_jobs_and_the_specs_queue_wins(step):
    labels = {
        KUEUE_QUEUE_LABEL: "of-the-label",
        "kueue.x-k8s.io/priority-class": "low",
        "kueue.x-k8s.io/max-exec-time-seconds": "600",
    }
    found = made(step, labels)["metadata"]["labels"]
    assert found.items() >= labels.items()
    found = made(step, labels, queueName="gpus")["metadata"]["labels"]
    assert found.items() >= (labels | {KUEUE_QUEUE_LABEL: "gpus"}).items()


@pytest.mark.parametrize("step", Step)
def test_a_job_that_is_held_is_a_state_and_no_error(step):
    world = QueuedWorld()
    world.go_to(step)
    assert world.condition(READY) == ("False", "Queued")
    assert world.condition(FAILED)[0] == world.condition(STALLED)[0] == "False"
    assert world.condition(ConditionType.RECONCILING)[0] == "True"
    assert f"Queue 'gpus', Job {world.job(step).name}." in world.message()
    world.admit(step)
    world.run_pod(step)
    world.settle()
    assert world.condition(READY) == ("False", WORKING[step])


@pytest.mark.parametrize("step", Step)
def test_a_job_that_is_taken_back_in_mid_run_goes_on_as_the_same_attempt(step):
    world = QueuedWorld()
    world.go_to(step)
    world.admit(step)
    world.run_pod(step)
    world.settle()
    created = len(world.created)
    world.evict(step)
    assert world.settle().actions == ()
    assert world.condition(READY) == ("False", "Queued")
    assert world.condition(FAILED)[0] == world.condition(STALLED)[0] == "False"
    world.admit(step)
    world.run_pod(step)
    assert world.settle().actions == ()
    assert world.condition(READY) == ("False", WORKING[step])
    assert len(world.created) == created
    assert world.job(step).attempt == 1


def test_a_job_without_a_queue_that_somebody_suspends_is_queued_too():
    world = RunWorld()
    world.go_to(Step.ANNOTATE)
    job = world.job(Step.ANNOTATE)
    world.jobs[job.name] = replace(job, is_suspended=True)
    assert world.settle().actions == ()
    assert world.condition(READY) == ("False", "Queued")
    assert f"Job {job.name}." in world.message()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="the flavor's nodes"),
        pytest.param({"parallelism": 1}, id="admitted in part"),
        pytest.param({"parallelism": 1, "completions": 1}, id="admitted in part, with fewer completions"),
    ],
)
def test_what_kueue_writes_into_a_job_is_left_alone(changes):
    world = QueuedWorld()
    world.go_to(Step.ANNOTATE)
    raw = world.admit(Step.ANNOTATE, **changes)
    assert world.settle().actions == ()
    world.run_pod(Step.ANNOTATE)
    assert world.settle().actions == ()
    assert world.live == [Step.ANNOTATE]
    assert len(world.created) == 3
    # An operator that had created it, and died before it knew, takes it for its own.
    digest = world.created[-1]["metadata"]["annotations"][SPEC_DIGEST_ANNOTATION]
    assert is_job_of(raw, "run-uid")
    assert is_ours_to_adopt(raw, "run-uid", digest)
    world.end(Step.ANNOTATE)
    world.settle()
    assert world.live == [Step.MERGE]
    assert world.status.annotate.attempt == 1


@pytest.mark.parametrize("step", Step)
def test_no_deadline_runs_while_a_job_is_held(step):
    world = QueuedWorld(startDeadlineSeconds=10, activeDeadlineSeconds=100)
    world.go_to(step)
    world.wait(10_000)
    world.settle()
    assert world.condition(READY) == ("False", "Queued")
    world.admit(step)
    world.settle()
    world.wait(9)
    world.settle()
    world.evict(step)
    world.settle()
    world.wait(10_000)
    world.settle()
    assert world.condition(READY) == ("False", "Queued")
    assert world.condition(FAILED)[0] == "False"


@pytest.mark.parametrize("step", Step)
def test_the_start_deadline_begins_anew_with_each_admission(step):
    world = QueuedWorld(startDeadlineSeconds=10)
    world.go_to(step)
    for _ in range(2):
        world.admit(step)
        world.settle()
        world.wait(9)
        world.settle()
        assert world.condition(READY) == ("False", "WaitingForPods")
        world.evict(step)
        world.settle()
        world.wait(9)
    world.admit(step)
    world.settle()
    world.wait(10)
    world.settle()
    assert world.condition(FAILED) == ("True", "StartDeadlineExceeded")


@pytest.mark.parametrize("step", Step)
def test_a_queued_run_that_is_suspended_leaves_the_queue(step):
    world = QueuedWorld()
    world.go_to(step)
    world.edit(suspend=True)
    world.settle()
    assert world.live == []
    assert world.condition(READY) == ("False", "Suspended")
    world.edit(suspend=False)
    world.settle()
    assert world.live == [step]
    assert world.condition(READY) == ("False", "Queued")
