"""The operator's process against a real API server; Jobs and pods are played by the test."""

import http.client
import json
import random
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.support.api_server import api_server
from tests.support.job_player import COMMIT, PLAN, STEP_LABEL
from tests.support.kube_api import PODS, wait_for
from tests.support.operator_process import operator_process
from tests.support.played_run import PlayedRun
from tests.support.run_world import CACHED_MODEL

from annotationrun_api.labels import Step
from annotationrun_api.step_results import PROGRESS_PORT, WorkerProgress, write_result

ROLE_RULES = [
    {"apiGroups": ["annotationrun.dev"], "resources": ["annotationruns"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["annotationrun.dev"], "resources": ["annotationruns/status"], "verbs": ["update"]},
    {"apiGroups": ["annotationrun.dev"], "resources": ["annotationruns/finalizers"], "verbs": ["update"]},
    {
        "apiGroups": ["batch"],
        "resources": ["jobs"],
        "verbs": ["get", "list", "watch", "create", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "list"]},
]


def told_of(run) -> set[str]:
    """Reasons of the Events about a run."""
    events = run.api.items(f"/api/v1/namespaces/{run.namespace}/events")
    return {event["reason"] for event in events if event["involvedObject"].get("uid") == run.uid}


@pytest.fixture
def operator(server, namespace, tmp_path):
    with operator_process(tmp_path, server.kubeconfig, namespace) as process:
        process.wait_until_ready()
        yield process


def test_a_run_goes_through_its_steps_to_complete(server, namespace, operator):
    run = PlayedRun(server.api, namespace)
    run.play_until("Complete")
    assert run.created_jobs() == ["plan 1", "annotate 1", "merge 1"]
    found = run.get()
    assert found["status"]["observedGeneration"] == 1
    assert run.condition("Complete")["status"] == "True"
    # kopf leaves nothing of its own on the objects.
    children = [*run.player.jobs(), *server.api.items(PODS.format(namespace))]
    assert len(children) == 6
    for item in (found, *children):
        assert "finalizers" not in item["metadata"] or item["kind"] == "Job"
        assert not [name for name in item["metadata"].get("annotations", {}) if "kopf" in name]
    wait_for("the Events, which come after the status", lambda: {"JobCreated", "Complete"} <= told_of(run))
    assert "Traceback" not in operator.log


def test_a_model_is_fetched_before_the_workers_and_the_servers_get_its_commit(server, namespace, operator):
    run = PlayedRun(server.api, namespace, model=CACHED_MODEL)
    run.player.held.add(Step.PREFETCH)
    run.play_until("FetchingModel")
    assert run.created_jobs() == ["plan 1", "prefetch 1"]
    run.player.held = {Step.ANNOTATE}
    run.play_until("Annotating")
    assert run.get()["status"]["prefetch"]["commit"] == COMMIT
    (job,) = [job for job in run.player.jobs() if job["metadata"]["labels"][STEP_LABEL] == Step.ANNOTATE]
    (vllm,) = job["spec"]["template"]["spec"]["initContainers"]
    assert f"--revision={COMMIT}" in vllm["args"]
    run.player.held.clear()
    run.play_until("Complete")
    assert run.created_jobs() == ["plan 1", "prefetch 1", "annotate 1", "merge 1"]


def test_metrics_tell_of_runs_passes_and_writes(server, namespace, operator):
    run = PlayedRun(server.api, namespace)
    run.play_until("Complete")
    wait_for("the state", lambda: 'annotationrun_runs{state="Complete"} 1.0' in operator.metrics())
    text = operator.metrics()
    assert re.search(r'annotationrun_api_writes_total\{resource="jobs",verb="create"\} 3\.0', text)
    assert re.search(r'annotationrun_reconciles_total\{outcome="ok"\} \d+', text)
    assert "annotationrun_queue_length" in text
    assert "annotationrun_reconcile_seconds_bucket" in text
    # A list may be ahead of the watches at any one moment.
    wait_for("the watches", lambda: "annotationrun_watch_behind_seconds 0.0" in operator.metrics())
    run.delete()
    wait_for("the run's end", lambda: 'state="Complete"' not in operator.metrics())


def test_an_invalid_spec_is_told_within_seconds_and_mended(server, namespace, operator):
    run = PlayedRun(
        server.api, namespace, source={"path": "in", "volume": {"claimName": "data"}, "episodes": "9-1"}
    )
    wait_for("the condition", lambda: run.condition("Stalled")["status"] == "True", 30)
    assert run.state == "InvalidSpec"
    assert "episodes" in run.condition("Ready")["message"]
    run.edit(source={"episodes": "1-9"})
    run.play_until("Complete")


def test_suspend_removes_the_job_and_resume_makes_the_next(server, namespace, operator):
    run = PlayedRun(server.api, namespace)
    run.player.held.add(Step.ANNOTATE)
    run.play_until("Annotating")
    run.edit(suspend=True)
    run.play_until("Suspended")
    wait_for("the Job's end", lambda: len(run.player.jobs()) == 1)
    run.player.held.clear()
    run.edit(suspend=False)
    run.play_until("Complete")
    assert run.created_jobs() == ["plan 1", "annotate 1", "annotate 2", "merge 1"]


def test_progress_is_that_of_a_worker_as_long_as_one_tells(server, namespace, operator):
    run = PlayedRun(server.api, namespace)
    run.player.held.add(Step.ANNOTATE)
    with worker_that_tells(WorkerProgress(plan=PLAN, total=6, done=3)) as run.player.pod_ip:
        run.play_until("Annotating")
        wait_for("progress", lambda: run.get()["status"]["progress"]["text"] == "50% (3/6)")
    wait_for("the note", lambda: run.condition("Annotated")["reason"] == "ProgressUnavailable")
    assert run.player.pod_ip in run.condition("Annotated")["message"]
    assert run.get()["status"]["progress"]["text"] == "50% (3/6)"
    run.player.held.clear()
    run.play_until("Complete")


def test_a_job_of_the_name_that_is_not_ours_is_told(server, namespace, operator, tmp_path):
    run = PlayedRun(server.api, namespace, suspend=True)
    run.play_until("Suspended")
    operator.stop()
    run.edit(suspend=False)
    name = _name_of_first_job(server, run, tmp_path)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    server.api.create(jobs, _foreign_job(name))
    with operator_process(tmp_path, server.kubeconfig, namespace) as other:
        other.wait_until_ready()
        run.play_until("JobConflict")
        assert name in run.condition("Ready")["message"]


def test_a_quota_that_refuses_jobs_is_told(server, namespace, operator):
    server.forbid_jobs(namespace)
    run = PlayedRun(server.api, namespace)
    run.play_until("QuotaExceeded")
    assert "exceeded quota: none" in run.condition("Ready")["message"]


def test_the_operator_stops_within_ten_seconds_though_a_client_holds_a_connection(
    server, namespace, operator
):
    PlayedRun(server.api, namespace)
    connection = http.client.HTTPConnection("127.0.0.1", operator.ports[1], timeout=30)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    try:
        assert operator.stop() < 10
    finally:
        connection.close()
    assert "Traceback" not in operator.log


def test_an_operator_that_starts_finds_what_happened_meanwhile(server, namespace, tmp_path):
    run = PlayedRun(server.api, namespace)
    with operator_process(tmp_path, server.kubeconfig, namespace) as first:
        run.player.held.add(Step.PLAN)
        run.play_until("Planning")
        first.stop()
    run.player.held.clear()
    run.player.turn()
    with operator_process(tmp_path, server.kubeconfig, namespace):
        run.play_until("Complete")
    assert run.created_jobs() == ["plan 1", "annotate 1", "merge 1"]


def test_a_role_with_the_least_rights_suffices(server, namespace, tmp_path):
    user = f"operator-{namespace}"
    with operator_process(tmp_path, server.user(user), namespace) as operator:
        wait_for("the complaint", lambda: "role of the operator does not suffice" in operator.log)
        assert operator.health() == (200, "ok\n")
        assert operator.health("/readyz") == (503, "the runs are not watched yet\n")
        server.allow(user, namespace, ROLE_RULES)
        run = PlayedRun(server.api, namespace)
        run.play_until("Complete")
        assert "Traceback" not in operator.log
        assert operator.log.count("does not suffice") == 1


def test_runs_of_other_namespaces_are_left_alone(server, namespace, operator):
    other = server.new_namespace()
    run = PlayedRun(server.api, namespace)
    foreign = PlayedRun(server.api, other)
    run.play_until("Complete")
    assert foreign.get()["status"] == {"observedGeneration": -1}


def test_an_operator_waits_for_the_crd(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    with api_server(folder, with_crd=False) as server:
        namespace = server.new_namespace()
        with operator_process(tmp_path, server.kubeconfig, "") as operator:
            wait_for(
                "the complaint", lambda: "annotationruns.annotationrun.dev is not served" in operator.log
            )
            server.install_crd()
            run = PlayedRun(server.api, namespace)
            run.play_until("Complete")
        with operator_process(
            tmp_path, server.kubeconfig, namespace, ANNOTATIONRUN_LOG_FORMAT="json"
        ) as operator:
            operator.wait_until_ready()
            operator.stop()
            lines = operator.log.splitlines()
            assert lines
            assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"ANNOTATIONRUN_RESYNC_SECONDS": "never"}, "ANNOTATIONRUN_RESYNC_SECONDS", id="a setting"
        ),
        pytest.param({"ANNOTATIONRUN_WORKER_IMAGE": ""}, "ANNOTATIONRUN_WORKER_IMAGE", id="no image"),
        pytest.param({"KUBECONFIG": "/nonexistent"}, "/nonexistent", id="no API server"),
    ],
)
def test_an_operator_that_is_set_wrongly_says_what(tmp_path, settings, said):
    kubeconfig = tmp_path / "kubeconfig"
    with operator_process(tmp_path, kubeconfig, "", **settings) as operator:
        assert operator.wait() == 3
    assert said in operator.log
    assert "Traceback" not in operator.log


@contextmanager
def worker_that_tells(progress: WorkerProgress) -> Iterator[str]:
    """Serve what a worker tells, on its port at an address of the loopback network; yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = write_result(progress).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            """Not into the test's output."""

    address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
    with ThreadingHTTPServer((address, PROGRESS_PORT), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        try:
            yield address
        finally:
            http_server.shutdown()
            thread.join()


def _foreign_job(name: str) -> dict:
    container = {"name": "c", "image": "i:1"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template},
    }


def _name_of_first_job(server, run, folder) -> str:
    """What the operator would call it; it is asked by letting it make the Job, which is then removed."""
    with operator_process(folder, server.kubeconfig, run.namespace) as operator:
        (job,) = wait_for("the Job", run.player.jobs)
        operator.stop()
    name = job["metadata"]["name"]
    server.api.delete(
        f"/apis/batch/v1/namespaces/{run.namespace}/jobs/{name}", propagationPolicy="Background"
    )
    return name
