"""A decision is carried out on a real API server: the status first, then Jobs, then what is told."""

import asyncio
import copy
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.support.kube_api import JOBS, RUNS
from tests.support.run_world import MANIFEST, SETTINGS

from annotationrun_api.labels import Step
from annotationrun_api.manifest import parse_object
from annotationrun_api.reasons import Reason
from annotationrun_operator.cluster import fault_points
from annotationrun_operator.cluster.api import connected
from annotationrun_operator.cluster.apply import Applied, apply
from annotationrun_operator.cluster.fault_points import FaultPoint
from annotationrun_operator.cluster.observe import view_run
from annotationrun_operator.core.status import Announcement, CreateJob, Decision, DeleteJob
from annotationrun_operator.errors import ApiConflictError
from annotationrun_operator.manifests.jobs import JobPlan, make_job

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATED = Announcement("Normal", Reason.JOB_CREATED, "Job run-plan-1")
PLANNING = Announcement("Normal", Reason.PLANNING, "")


@pytest.fixture
def run(server, namespace):
    manifest = copy.deepcopy(MANIFEST)
    manifest["metadata"]["namespace"] = namespace
    return view_run(server.api.create(RUNS.format(namespace), manifest))


@pytest.fixture
def create(run) -> CreateJob:
    manifest = parse_object(run.manifest, run.name)
    return CreateJob(make_job(run, manifest, JobPlan(Step.PLAN, 1, "run-plan-1"), SETTINGS))


@pytest.fixture
def carry_out(server, run, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))

    def call(decision: Decision, of=run) -> Applied:
        async def scenario():
            async with connected(lambda *request: None) as api:
                return await apply(api, of, decision, NOW)

        return asyncio.run(scenario())

    return call


@pytest.fixture
def points(monkeypatch) -> list[FaultPoint]:
    reached: list[FaultPoint] = []
    monkeypatch.setattr(fault_points, "listener", reached.append)
    return reached


def seen(run, generation: int = 1):
    return run.status.model_copy(update={"observed_generation": generation})


def jobs(server, namespace) -> list[dict]:
    return server.api.items(JOBS.format(namespace))


def events(server, namespace) -> list[tuple[str, str]]:
    found = server.api.items(f"/api/v1/namespaces/{namespace}/events")
    return [(event["reason"], event["type"]) for event in found]


def test_the_status_comes_first_then_the_job_then_the_event(
    server, namespace, run, create, carry_out, points
):
    applied = carry_out(Decision(seen(run), (create,), (CREATED,)))
    assert applied == Applied(has_created=True)
    assert points == [
        FaultPoint.BEFORE_STATUS,
        FaultPoint.AFTER_STATUS,
        FaultPoint.BEFORE_CREATE_JOB,
        FaultPoint.AFTER_CREATE_JOB,
        FaultPoint.BEFORE_EVENT,
        FaultPoint.AFTER_EVENT,
    ]
    assert server.api.get(f"{RUNS.format(namespace)}/run")["status"]["observedGeneration"] == 1
    (job,) = jobs(server, namespace)
    assert job["metadata"]["name"] == "run-plan-1"
    assert events(server, namespace) == [("JobCreated", "Normal")]


def test_a_status_that_has_not_changed_is_not_written(server, namespace, run, carry_out, points):
    carry_out(Decision(run.status))
    assert points == []
    assert (
        server.api.get(f"{RUNS.format(namespace)}/run")["metadata"]["resourceVersion"] == run.resource_version
    )


def test_a_run_that_has_changed_meanwhile_is_left_alone(server, namespace, run, create, carry_out):
    server.api.patch(f"{RUNS.format(namespace)}/run", {"spec": {"suspend": True}})
    with pytest.raises(ApiConflictError):
        carry_out(Decision(seen(run), (create,), (CREATED,)))
    assert jobs(server, namespace) == []
    assert events(server, namespace) == []


def test_our_job_that_is_there_already_is_adopted(server, namespace, run, create, carry_out):
    """The answer to its creation was lost, or whoever asked for it was killed."""
    carry_out(Decision(run.status, (create,)))
    assert carry_out(Decision(run.status, (create,))) == Applied(has_created=True)
    assert len(jobs(server, namespace)) == 1


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        pytest.param({"ownerReferences": []}, "has not made from this spec", id="another owner"),
        pytest.param(
            {"annotations": {"annotationrun.dev/spec-digest": "e" * 64}},
            "has not made from this spec",
            id="made from another spec",
        ),
        pytest.param({"finalizers": ["example.com/wait"]}, "is being deleted", id="going"),
    ],
)
def test_another_job_of_the_name_is_a_conflict(server, namespace, run, create, carry_out, edit, said):
    other = copy.deepcopy(dict(create.manifest))
    other["metadata"] |= edit
    server.api.create(JOBS.format(namespace), other)
    if "finalizers" in edit:
        server.api.delete(f"{JOBS.format(namespace)}/run-plan-1", propagationPolicy="Background")
    refusal = carry_out(Decision(seen(run), (create,), (CREATED, PLANNING))).refusal
    assert refusal.is_conflict
    assert (refusal.job_name, refusal.code, refusal.time) == ("run-plan-1", 409, NOW)
    assert said in refusal.message
    assert [reason for reason, _ in events(server, namespace)] == ["Planning"]


def test_what_the_api_server_refuses_is_a_refusal(server, namespace, run, create, carry_out):
    wrong = copy.deepcopy(dict(create.manifest))
    wrong["spec"]["backoffLimit"] = -1
    refusal = carry_out(Decision(run.status, (CreateJob(wrong),))).refusal
    assert (refusal.code, refusal.is_conflict) == (422, False)
    assert "spec.backoffLimit" in refusal.message


def test_a_job_is_deleted_and_another_of_its_name_is_not(server, namespace, run, create, carry_out, points):
    carry_out(Decision(run.status, (create,)))
    (job,) = jobs(server, namespace)
    points.clear()
    carry_out(Decision(run.status, (DeleteJob("run-plan-1", "00000000-0000-0000-0000-000000000000"),)))
    assert len(jobs(server, namespace)) == 1
    carry_out(Decision(run.status, (DeleteJob("run-plan-1", job["metadata"]["uid"]),)))
    assert jobs(server, namespace) == []
    carry_out(Decision(run.status, (DeleteJob("run-plan-1", job["metadata"]["uid"]),)))
    assert points.count(FaultPoint.BEFORE_DELETE_JOB) == 3
    assert points.count(FaultPoint.AFTER_DELETE_JOB) == 1


def test_the_same_event_is_told_once(server, namespace, run, carry_out):
    for _ in range(2):
        carry_out(Decision(run.status, announcements=(PLANNING, CREATED)))
    assert sorted(events(server, namespace)) == [("JobCreated", "Normal"), ("Planning", "Normal")]


def test_a_run_with_the_longest_name_and_message_can_be_told_of(server, namespace, run, carry_out):
    long_name = replace(run, name="r" * 48)
    told = Announcement("Warning", Reason.STORAGE_FAILED, "x" * 5000)
    carry_out(Decision(run.status, announcements=(told,)), long_name)
    assert events(server, namespace) == [("StorageFailed", "Warning")]


def test_an_event_that_is_refused_holds_nothing_back(
    server, namespace, run, create, carry_out, caplog, monkeypatch
):
    user = f"without-events-{namespace}"
    monkeypatch.setenv("KUBECONFIG", str(server.user(user)))
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}]
    rules += [
        {"apiGroups": ["annotationrun.dev"], "resources": ["annotationruns/finalizers"], "verbs": ["update"]}
    ]
    server.allow(user, namespace, rules)
    assert carry_out(Decision(run.status, (create,), (PLANNING,))).has_created
    assert "the Event Planning is lost: create events" in caplog.text
    assert "HTTP 403" in caplog.text
