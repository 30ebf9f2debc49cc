"""Why a Job failed and what it told, of several pods: whose word counts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.support.run_world import PLAN, START

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.step_results import PlanResult, write_result
from annotationrun_operator.core.outcomes import SHOWN_CHARACTERS, job_failure, plan_result
from annotationrun_operator.manifests.pods import WORKER_CONTAINER
from annotationrun_operator.manifests.sidecar import SIDECAR_CONTAINER
from annotationrun_operator.observation import ContainerView, JobCondition, JobView, PodView

JOB = JobView(
    name="run-plan-1", uid="u", step=Step.PLAN, attempt=1, spec_digest="d", created=START, completions=1
)


def pod(minute, code, message="", job=JOB.name, **fields):
    """A pod created in that minute, whose worker ended so."""
    worker = ContainerView(WORKER_CONTAINER, exit_code=code, exit_message=message)
    created = START + timedelta(minutes=minute)
    values = {"phase": "Failed", "created": created, "containers": (worker,)} | fields
    name = f"{job}-{minute}"
    return PodView(name=name, uid=name, job_name=job, step=Step.PLAN, ip="", **values)


def told(commit):
    return write_result(PlanResult(plan=PLAN, episodes=6, pending=6, source_commit=commit))


def test_the_newest_pod_that_tells_a_result_is_believed():
    older, newer = pod(1, 0, told("a" * 40)), pod(2, 0, told("b" * 40))
    for pods in ([older, newer], [newer, older]):
        assert plan_result(JOB, pods).source_commit == "b" * 40
    unreadable = pod(3, 0, "killed in the middle of a w")
    assert plan_result(JOB, [older, newer, unreadable]).source_commit == "b" * 40


def test_pods_of_another_job_tell_nothing_of_this_one():
    other = pod(1, 0, told("a" * 40), job="run-plan-0")
    assert plan_result(JOB, [other]) is None
    refused = pod(1, ExitCode.CONFIGURATION, "no such model", job="run-plan-0")
    assert job_failure(JOB, [refused]).reason is Reason.PODS_FAILED


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        pytest.param((ExitCode.CONFIGURATION, 139), Reason.CONFIGURATION_REFUSED, id="refused, then a crash"),
        pytest.param((139, ExitCode.DATASET), Reason.DATASET_UNREADABLE, id="a crash, then unreadable"),
        pytest.param(
            (ExitCode.OUTPUT_MOVED, ExitCode.STORAGE), Reason.OUTPUT_MOVED, id="moved, then a full disk"
        ),
        pytest.param((ExitCode.STORAGE, 139), Reason.STORAGE_FAILED, id="a full disk, then a crash"),
        pytest.param(
            (ExitCode.SERVER_NOT_READY, ExitCode.INTERRUPTED),
            Reason.SERVER_NOT_READY,
            id="no server, then interrupted",
        ),
        pytest.param((139, ExitCode.SERVER_NOT_READY), Reason.SERVER_NOT_READY, id="the newest of others"),
    ],
)
def test_what_would_come_again_is_the_reason_before_what_might_not(codes, reason):
    pods = [pod(minute, code, f"said {int(code)}") for minute, code in enumerate(codes)]
    found = job_failure(JOB, pods)
    assert found == job_failure(JOB, pods[::-1])
    assert found.reason is reason


def test_the_end_of_a_long_log_is_told():
    found = job_failure(JOB, [pod(1, ExitCode.DATASET, "x" * 5000 + "\n the cause")])
    assert found.message.endswith("x the cause")
    assert len(found.message) < SHOWN_CHARACTERS + 100


def test_a_server_that_did_not_come_up_is_heard():
    failed = pod(1, ExitCode.SERVER_NOT_READY, "waited in vain")
    server = ContainerView(SIDECAR_CONTAINER, is_sidecar=True, exit_message="CUDA out of memory")
    found = job_failure(JOB, [replace(failed, containers=(*failed.containers, server))])
    assert "waited in vain; the server said: CUDA out of memory" in found.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Container worker for pod x failed with exit code 4 matching FailJob rule",
            Reason.DATASET_UNREADABLE,
        ),
        ("Job has reached the specified backoff limit", Reason.PODS_FAILED),
    ],
)
def test_where_the_pods_are_gone_the_job_is_asked(message, reason):
    failed = replace(JOB, conditions=(JobCondition("Failed", "PodFailurePolicy", message),))
    found = job_failure(failed, [])
    assert found.reason is reason
    assert message in found.message
