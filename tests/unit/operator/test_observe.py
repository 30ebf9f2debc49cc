"""Objects of the API server become what a decision is made from."""

from datetime import UTC, datetime

import pytest
from tests.support.cluster_objects import JOB_UID, UID, owner, raw_job, raw_pod, raw_run

from annotationrun_api.labels import Step
from annotationrun_operator.cluster.observe import (
    claim_names,
    gpu_resource_of,
    is_job_of,
    is_ours_to_adopt,
    is_pod_of,
    pods_to_ask,
    silent_job,
    view_claim,
    view_job,
    view_job_events,
    view_pod,
    view_run,
)
from annotationrun_operator.errors import UnreadableObjectError
from annotationrun_operator.observation import JobEvent

OTHER_UID = "00000000-0000-0000-0000-000000000000"


def test_a_run_is_seen_with_its_manifest_and_status():
    run = view_run(raw_run(annotations={"annotationrun.dev/requested-at": "now"}))
    assert (run.name, run.namespace, run.uid) == ("blocks", "team-a", UID)
    assert (run.generation, run.resource_version) == (3, "210")
    assert run.status.observed_generation == -1
    assert run.created == datetime(2026, 11, 21, 15, 55, 28, tzinfo=UTC)
    assert run.manifest["spec"] == raw_run()["spec"]
    assert "status" not in run.manifest
    assert run.annotations == {"annotationrun.dev/requested-at": "now"}
    assert not run.is_deleting


def test_a_run_without_status_was_never_seen():
    raw = raw_run()
    del raw["status"]
    assert view_run(raw).status.observed_generation == -1


def test_a_run_that_goes_is_seen_as_such():
    assert view_run(raw_run(deletionTimestamp="2026-11-21T16:00:00Z")).is_deleting


def test_a_status_that_does_not_fit_is_named_and_not_begun_anew():
    raw = {**raw_run(), "status": {"plan": {"attempt": "many"}}}
    with pytest.raises(
        UnreadableObjectError, match=r"(?s)status of run 'blocks' in namespace 'team-a'.*attempt"
    ):
        view_run(raw)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        pytest.param({}, True, id="our controller and labels"),
        pytest.param({"ownerReferences": []}, False, id="labels alone are not ours"),
        pytest.param(
            {"ownerReferences": [owner("AnnotationRun", "blocks", OTHER_UID)]},
            False,
            id="another run of the name",
        ),
        pytest.param(
            {"ownerReferences": [{**owner("AnnotationRun", "blocks", UID), "controller": False}]},
            False,
            id="an owner that is not the controller",
        ),
        pytest.param({"labels": {"annotationrun.dev/run-uid": UID}}, False, id="no step"),
        pytest.param(
            {
                "labels": {
                    "annotationrun.dev/run-uid": UID,
                    "annotationrun.dev/step": "annotate",
                    "annotationrun.dev/attempt": "x",
                }
            },
            False,
            id="an attempt that is no number",
        ),
    ],
)
def test_a_job_is_a_child_by_its_controller_and_its_labels(metadata, expected):
    assert is_job_of(raw_job(**metadata), UID) is expected


def test_a_job_is_seen_with_its_counts():
    job = view_job(raw_job())
    assert (job.name, job.uid, job.step, job.attempt) == (
        "blocks-annotate-0a1b2c3d",
        JOB_UID,
        Step.ANNOTATE,
        2,
    )
    assert (job.active, job.succeeded, job.failed, job.completions) == (3, 0, 0, 3)
    assert job.spec_digest == "d" * 64
    assert not (job.has_ended)
    assert not (job.is_deleting)
    assert not (job.is_suspended)


def test_a_job_that_the_controller_has_not_seen_has_no_counts():
    raw = raw_job()
    del raw["status"], raw["spec"]["completions"]
    job = view_job(raw)
    assert (job.active, job.succeeded, job.failed, job.completions) == (0, 0, 0, 1)


def test_of_a_jobs_conditions_those_that_hold_are_seen():
    conditions = [
        {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 3"},
        {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": "exit code 3"},
        {"type": "Suspended", "status": "False", "reason": "JobResumed", "message": "Job resumed"},
    ]
    job = view_job(raw_job({"failed": 1, "conditions": conditions}))
    assert [found.type for found in job.conditions] == ["FailureTarget", "Failed"]
    assert job.has_failed
    assert job.condition("Failed").message == "exit code 3"


def test_a_job_that_kueue_holds_and_one_that_goes_are_seen_as_such():
    raw = raw_job(deletionTimestamp="2026-11-21T16:00:00Z")
    raw["spec"]["suspend"] = True
    job = view_job(raw)
    assert job.is_suspended
    assert job.is_deleting


@pytest.mark.parametrize(
    ("metadata", "digest", "expected"),
    [
        pytest.param({}, "d" * 64, True, id="the one that was meant"),
        pytest.param({}, "e" * 64, False, id="made from another spec"),
        pytest.param({"annotations": None}, "d" * 64, False, id="without a digest"),
        pytest.param({"ownerReferences": []}, "d" * 64, False, id="somebody else's"),
        pytest.param({"deletionTimestamp": "2026-11-21T16:00:00Z"}, "d" * 64, False, id="going"),
    ],
)
def test_a_job_is_adopted_only_if_it_is_the_one_that_was_meant(metadata, digest, expected):
    assert is_ours_to_adopt(raw_job(**metadata), UID, digest) is expected


def test_a_pod_is_a_child_by_its_label_and_a_job():
    assert is_pod_of(raw_pod(), UID)
    assert not is_pod_of(raw_pod(), OTHER_UID)
    assert not is_pod_of(raw_pod(ownerReferences=[]), UID)


def test_a_running_pod_is_seen_with_its_containers():
    pod = view_pod(raw_pod())
    assert (pod.job_name, pod.step, pod.phase) == ("blocks-annotate-0a1b2c3d", Step.ANNOTATE, "Running")
    assert (pod.ip, pod.gpus, pod.is_scheduled, pod.ended) == ("10.244.0.7", 2, True, None)
    server, worker = pod.container("server"), pod.container("worker")
    assert (server.is_sidecar, server.is_running, server.is_ready) == (True, True, True)
    assert (worker.is_sidecar, worker.is_running, worker.image) == (False, True, "worker:1")
    assert worker.exit_code is None


def test_a_pod_that_no_node_takes_says_why():
    message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    raw = raw_pod({"phase": "Pending", "conditions": [condition]})
    del raw["spec"]["nodeName"]
    pod = view_pod(raw)
    assert not pod.is_scheduled
    assert (pod.unscheduled_reason, pod.unscheduled_message) == ("Unschedulable", message)
    assert [container.name for container in pod.containers] == ["server", "worker"]


def test_a_pod_that_the_scheduler_has_not_seen_is_not_scheduled_and_not_refused():
    raw = raw_pod({"phase": "Pending"})
    del raw["spec"]["nodeName"]
    pod = view_pod(raw)
    assert not pod.is_scheduled
    assert pod.unscheduled_reason == ""


def test_a_container_that_waits_says_why():
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nope:1"'}}
    state = {"name": "server", "ready": False, "restartCount": 0, "state": waiting}
    container = view_pod(raw_pod({"phase": "Pending", "initContainerStatuses": [state]})).container("server")
    assert container.waiting_reason == "ImagePullBackOff"
    assert container.waiting_message == 'Back-off pulling image "nope:1"'
    assert not container.is_running


def ended(code: int, reason: str, message: str, finished: str = "2026-11-21T16:01:05Z") -> dict:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": "2026-11-21T15:56:20Z",
            "finishedAt": finished,
        }
    }


def test_a_failed_pod_is_seen_with_exit_codes_and_messages():
    states = {
        "phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
        "initContainerStatuses": [
            {"name": "server", "restartCount": 0, "state": ended(137, "Error", "", "2026-11-21T16:01:09Z")}
        ],
        "containerStatuses": [
            {"name": "worker", "restartCount": 0, "state": ended(137, "OOMKilled", "log end")}
        ],
    }
    pod = view_pod(raw_pod(states))
    worker = pod.container("worker")
    assert (worker.exit_code, worker.exit_reason, worker.exit_message) == (137, "OOMKilled", "log end")
    assert pod.is_disrupted
    assert pod.has_ended
    assert pod.ended == datetime(2026, 11, 21, 16, 1, 9, tzinfo=UTC)


def test_of_a_sidecar_that_runs_again_its_last_end_is_seen():
    state = {
        "name": "server",
        "ready": True,
        "restartCount": 2,
        "state": {"running": {"startedAt": "2026-11-21T16:01:05Z"}},
        "lastState": ended(1, "Error", "CUDA error"),
    }
    server = view_pod(raw_pod({"phase": "Running", "initContainerStatuses": [state]})).container("server")
    assert (server.is_running, server.restarts) == (True, 2)
    assert (server.exit_code, server.exit_message) == (1, "CUDA error")


def test_a_pod_that_was_evicted_before_it_ran_ends_with_its_last_transition():
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-21T15:56:01Z"},
        {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-11-21T15:58:00Z"},
    ]
    pod = view_pod(raw_pod({"phase": "Failed", "reason": "Evicted", "conditions": conditions}))
    assert pod.ended == datetime(2026, 11, 21, 15, 58, tzinfo=UTC)


@pytest.mark.parametrize(
    ("resources", "gpu_resource", "expected"),
    [
        pytest.param({"limits": {"nvidia.com/gpu": "2"}}, "nvidia.com/gpu", 2, id="limits alone"),
        pytest.param({"requests": {"nvidia.com/mig-4g.71gb": 1}}, "", 1, id="a slice"),
        pytest.param(
            {"requests": {"amd.com/gpu": "4"}}, "nvidia.com/gpu", 4, id="another than the spec now names"
        ),
        pytest.param({"requests": {"habana.ai/gaudi": "8"}}, "habana.ai/gaudi", 8, id="as the spec names it"),
        pytest.param({"requests": {"rdma/hca": "1", "cpu": "4", "hugepages-2Mi": "1Gi"}}, "", 0, id="no GPU"),
        pytest.param({}, "", 0, id="nothing"),
    ],
)
def test_gpus_are_counted_by_whatever_name(resources, gpu_resource, expected):
    raw = raw_pod()
    raw["spec"]["initContainers"][0]["resources"] = resources
    assert view_pod(raw, gpu_resource).gpus == expected


def test_the_claims_of_a_spec_are_found_each_once():
    assert claim_names(raw_run()) == ("datasets", "staging", "models")
    external = raw_run()
    external["spec"]["model"]["serving"]["mode"] = "External"
    assert claim_names(external) == ("datasets", "staging"), "no pod mounts the model's cache"


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="empty"),
        pytest.param({"source": None, "output": [1]}, id="other types"),
        pytest.param({"source": {"volume": {"claimName": 7}}}, id="a number"),
        pytest.param("text", id="no mapping"),
    ],
)
def test_a_spec_that_is_wrong_names_no_claims(spec):
    assert claim_names({"spec": spec}) == ()
    assert gpu_resource_of({"spec": spec}) == ""


def test_a_claims_modes_are_those_it_was_bound_with():
    claim = {
        "metadata": {"name": "datasets"},
        "spec": {"accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]},
    }
    assert view_claim(claim).access_modes == ("ReadWriteMany",)
    del claim["status"]
    assert (view_claim(claim).access_modes, view_claim(claim).phase) == (("ReadWriteOnce",), "Pending")


def test_the_newest_job_without_pods_is_silent():
    jobs = [
        view_job(raw_job(name="old")),
        view_job(raw_job(name="new", creationTimestamp="2026-11-21T16:30:00Z")),
    ]
    assert silent_job(jobs, []).name == "new"
    assert silent_job(jobs[:1], [view_pod(raw_pod(ownerReferences=[owner("Job", "old", JOB_UID)]))]) is None
    assert silent_job([view_job(raw_job(deletionTimestamp="2026-11-21T16:00:00Z"))], []) is None


def test_the_latest_warning_of_a_job_comes_first():
    events = [
        {"reason": "FailedCreate", "message": "first", "lastTimestamp": "2026-11-21T16:00:00Z"},
        {
            "reason": "FailedCreate",
            "message": "last",
            "lastTimestamp": None,
            "eventTime": "2026-11-21T16:00:02.123456Z",
        },
        {"reason": "Other", "message": "middle", "lastTimestamp": "2026-11-21T16:00:01Z"},
    ]
    assert view_job_events(events)[0] == JobEvent("FailedCreate", "last")
    assert [event.message for event in view_job_events(events)] == ["last", "middle", "first"]


def test_the_pods_that_can_be_asked_are_those_whose_worker_runs():
    jobs = [view_job(raw_job())]
    pods = [view_pod(raw_pod(name=name)) for name in ("b", "a")]
    going = view_pod(raw_pod(name="going", deletionTimestamp="2026-11-21T16:00:00Z"))
    without_worker = raw_pod(name="starting")
    del without_worker["status"]["containerStatuses"]
    asked = pods_to_ask(jobs, [*pods, going, view_pod(without_worker)])
    assert [pod.name for pod in asked] == ["a", "b"]
    complete = view_job(raw_job({"conditions": [{"type": "Complete", "status": "True"}]}))
    assert pods_to_ask([complete], pods) == ()
