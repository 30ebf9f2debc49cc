"""Pods, containers and the operator die in the middle of a run: the output is the same, to the byte."""

import pytest
from tests.cluster.manifests import asked, hold_answers, manifest_of, release_answers
from tests.cluster.pick import IN_FLIGHT, WORKERS, live_pods, wait_until_annotating
from tests.cluster.waiting import wait_until
from tests.support.annotation import REFERENCE

from annotationrun_operator.cluster.fault_points import FaultPoint

DEADLY_OPERATOR = """
import os, sys
from annotationrun_operator.cluster import fault_points
from annotationrun_operator.__main__ import main
point, left, mark = sys.argv[1], int(sys.argv[2]), "/tmp/was-killed"

def listen(reached):
    global left
    left -= reached == point
    if left == 0 and not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(137)

fault_points.listener = listen
sys.exit(main())
"""
"""It dies as if killed at the how manieth time of a fault point; the next one of the same pod does not."""


@pytest.fixture(scope="module")
def start_operator(installation):
    """Starts the operator with another command, from one test to the next; in the end it is as it was."""
    yield installation.patch_operator
    installation.patch_operator(["python", "-m", "annotationrun_operator"])


def test_a_worker_and_the_operator_are_deleted(slow, undisturbed, installation):
    space, manifest = slow
    hold_answers(space)
    space.apply(manifest)
    wait_until_annotating(space)
    space.kubectl("delete", "pod", live_pods(space, WORKERS)[0]["metadata"]["name"], "--wait=false")
    installation.delete_operator_pod()
    release_answers(space)
    space.wait_complete("pick")
    assert space.hashes("out") == undisturbed.hashes
    assert len(asked(space)) <= undisturbed.requests + IN_FLIGHT


def test_the_server_of_a_worker_ends(workspace, images, undisturbed):
    space = workspace("sidecar")
    space.put_folder(REFERENCE, "in")
    manifest = manifest_of("pick", images, latency_seconds=1.0)
    manifest["spec"]["workers"]["requestConcurrency"] = 2  # most is still to be asked after ten answers
    space.apply(manifest)
    wait_until_annotating(space, answers=10)
    pod = live_pods(space, WORKERS)[0]["metadata"]["name"]
    space.kubectl("exec", pod, "--container=vllm", "--", "python3", "-c", "import os; os.kill(1, 15)")
    space.wait_complete("pick")
    statuses = space.get("pods", pod)["status"]["initContainerStatuses"]
    assert [status["restartCount"] for status in statuses if status["name"] == "vllm"] == [1]
    assert space.hashes("out") == undisturbed.hashes


@pytest.mark.parametrize(
    ("point", "time"),
    [
        pytest.param(FaultPoint.BEFORE_CREATE_JOB, 2, id="before the annotate Job is created"),
        pytest.param(FaultPoint.AFTER_CREATE_JOB, 2, id="after the annotate Job is created"),
        pytest.param(FaultPoint.AFTER_CREATE_JOB, 3, id="after the merge Job is created"),
    ],
)
def test_the_operator_is_killed(slow, undisturbed, installation, start_operator, point, time):
    space, manifest = slow
    start_operator(["python", "-c", DEADLY_OPERATOR, point, str(time)])
    space.apply(manifest)
    run = space.wait_complete("pick")
    wait_until(lambda: installation.operator_restarts() > 0, 60, installation.operator_log)
    assert installation.operator_restarts() == 1
    assert {step: run["status"][step]["attempt"] for step in ("plan", "annotate", "merge")} == {
        "plan": 1, "annotate": 1, "merge": 1,
    }  # fmt: skip
    assert len(space.list("jobs")) == len(made_jobs(space)) == 3
    assert space.hashes("out") == undisturbed.hashes
    assert len(asked(space)) <= undisturbed.requests + IN_FLIGHT


def made_jobs(space):
    """Names and UIDs of the Jobs whose pods were ever made, those that are gone too."""
    return {
        (event["involvedObject"]["name"], event["involvedObject"]["uid"])
        for event in space.list("events")
        if event["involvedObject"]["kind"] == "Job" and event["reason"] == "SuccessfulCreate"
    }
