"""Runs that wait in queues of Kueue's real manager, with real Jobs; the pods are played by the test."""

import pytest
from tests.support.kube_api import PODS, wait_for
from tests.support.kueue import NODES, QUEUE, TOLERATION
from tests.support.operator_process import operator_process
from tests.support.played_run import PlayedRun
from tests.support.pod_player import PodPlayer

from annotationrun_api.labels import Step

QUOTA = {"cpu": "4", "memory": "20Gi", "nvidia.com/gpu": "2"}
"""As much as the annotate step of one run asks for; nothing else has room beside it."""
STEPS = ["plan 1", "annotate 1", "merge 1"]


@pytest.fixture(scope="module")
def operator(kueue, tmp_path_factory):
    """One for the runs of all namespaces."""
    with operator_process(tmp_path_factory.mktemp("operator"), kueue.server.kubeconfig, "") as process:
        process.wait_until_ready()
        yield process


class Queue:
    """A ClusterQueue of its own, with room for one run."""

    def __init__(self, kueue):
        self.kueue = kueue
        self.name = f"queue-{kueue.server.new_namespace()}"
        kueue.add_cluster_queue(self.name, QUOTA)

    def new_run(self, **spec):
        """A run, in a namespace of its own, that waits for the queue."""
        namespace = self.kueue.server.new_namespace()
        self.kueue.add_local_queue(namespace, self.name)
        run = PlayedRun(self.kueue.server.api, namespace, queueName=QUEUE, workers={"parallelism": 2}, **spec)
        run.player = PodPlayer(run.api, namespace)
        return run

    def new_run_at_work(self):
        """A run whose workers have all that the queue has to give."""
        run = self.new_run()
        run.player.held.add(Step.ANNOTATE)
        run.play_until("Annotating")
        return run


@pytest.fixture
def queue(kueue, operator):
    return Queue(kueue)


def test_a_run_is_queued_until_the_one_before_is_done(queue):
    first = queue.new_run_at_work()
    second = queue.new_run(startDeadlineSeconds=2)
    second.play_until("Queued")
    assert f"Queue {QUEUE!r}" in second.condition("Ready")["message"]
    control = PlayedRun(first.api, queue.kueue.server.new_namespace(), startDeadlineSeconds=2)
    wait_for(
        "the deadline of a run that began later, and whose pods nobody starts",
        lambda: control.condition("Failed")["reason"] == "StartDeadlineExceeded",
    )
    assert second.state == "Queued"
    assert second.condition("Stalled")["status"] == "False"
    (workload,) = queue.kueue.workloads(second.namespace)
    assert workload["spec"]["queueName"] == QUEUE
    assert second.get()["status"]["activity"].keys() == {"activeSeconds"}  # no clock runs

    second.edit(startDeadlineSeconds=3600)
    wait_for("the edit", lambda: second.get()["status"]["observedGeneration"] == 2)
    first.player.held.clear()
    first.play_until("Complete")
    second.play_until("Complete")
    for run in (first, second):
        assert run.created_jobs() == STEPS
        templates = [job["spec"]["template"] for job in run.player.jobs()]
        assert len(templates) == len(STEPS)
        for template in templates:
            assert template["spec"]["nodeSelector"] == NODES
            assert template["spec"]["tolerations"] == [TOLERATION]


def test_a_suspended_run_makes_room_for_another(queue):
    first, second = queue.new_run_at_work(), queue.new_run()
    second.play_until("Queued")
    assert unfinished_workloads(queue, first)
    first.edit(suspend=True)
    first.play_until("Suspended")
    wait_for("the Workload's end", lambda: not unfinished_workloads(queue, first))
    play_both_until_complete(first, second)
    first.player.held.clear()
    first.edit(suspend=False)
    first.play_until("Complete")
    assert first.created_jobs() == ["plan 1", "annotate 1", "annotate 2", "merge 1"]
    assert second.created_jobs() == STEPS


def test_a_run_that_is_drained_is_queued_and_goes_on_with_the_same_job(queue):
    run = queue.new_run_at_work()
    (job,) = annotate_jobs(run)
    assert job["spec"]["template"]["spec"]["nodeSelector"] == NODES
    assert pods_of(run, job)
    queue.kueue.set_stop_policy(queue.name, "HoldAndDrain")
    run.play_until("Queued")
    wait_for("the pods' end", lambda: run.turn() or not pods_of(run, job))
    assert run.condition("Failed")["status"] == "False"
    (held,) = annotate_jobs(run)
    assert held["spec"]["suspend"]
    assert "nodeSelector" not in held["spec"]["template"]["spec"]

    queue.kueue.set_stop_policy(queue.name, "None")
    run.play_until("Annotating")
    run.player.held.clear()
    run.play_until("Complete")
    assert run.created_jobs() == STEPS
    assert_same_job(run, job)


def test_a_run_of_higher_priority_takes_the_place_of_another(queue):
    low = queue.new_run_at_work()
    (job,) = annotate_jobs(low)
    priority = f"high-{queue.name}"
    queue.kueue.add_priority(priority, 1000)
    high = queue.new_run(suspend=True)
    high.api.patch(high.path, {"metadata": {"labels": {"kueue.x-k8s.io/priority-class": priority}}})
    high.edit(suspend=False)
    low.play_until("Queued")
    play_both_until_complete(low, high)
    low.player.held.clear()
    low.play_until("Complete")
    assert low.created_jobs() == high.created_jobs() == STEPS
    assert_same_job(low, job)


def play_both_until_complete(other, run):
    """Play the pods of both until one run is complete: where others do not go, there is no room."""

    def is_complete():
        other.turn()
        run.turn()
        return run.state == "Complete"

    wait_for("the run's end", is_complete)


def unfinished_workloads(queue, run):
    return [
        workload
        for workload in queue.kueue.workloads(run.namespace)
        if not any(one["type"] == "Finished" for one in workload.get("status", {}).get("conditions", ()))
    ]


def assert_same_job(run, job):
    """The Job went through all that in one piece, and nothing counts as its failure."""
    (ended,) = annotate_jobs(run)
    assert ended["metadata"]["uid"] == job["metadata"]["uid"]
    assert "failed" not in ended["status"]


def annotate_jobs(run):
    return [
        job
        for job in run.player.jobs()
        if job["metadata"]["labels"]["annotationrun.dev/step"] == Step.ANNOTATE.value
    ]


def pods_of(run, job):
    name = job["metadata"]["name"]
    return run.api.items(f"{PODS.format(run.namespace)}?labelSelector=job-name={name}")
