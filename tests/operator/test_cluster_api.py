"""What the operator asks of a real API server, and the errors that its answers become."""

import asyncio
import copy
from collections import Counter

import pytest
from tests.support.kube_api import JOBS, RUNS
from tests.support.run_world import MANIFEST
from tests.support.watch_proxy import plain_kubeconfig

from annotationrun_operator.cluster import api as cluster_api
from annotationrun_operator.cluster.api import connected
from annotationrun_operator.errors import (
    ApiConflictError,
    ApiNotFoundError,
    ApiRefusedError,
    ApiUnavailableError,
    ConnectionSettingsError,
)
from annotationrun_operator.observation import RunKey

TEMPLATE = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}


def make_run(server, namespace: str, name: str = "run") -> RunKey:
    manifest = copy.deepcopy(MANIFEST)
    manifest["metadata"] = {"name": name, "namespace": namespace}
    server.api.create(RUNS.format(namespace), manifest)
    return RunKey(namespace, name)


def make_job(namespace: str, uid: str = "u", name: str = "job") -> dict:
    metadata = {"name": name, "namespace": namespace, "labels": {"annotationrun.dev/run-uid": uid}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": TEMPLATE}}


@pytest.fixture
def ask(server, monkeypatch):
    """Calls a coroutine function with a client of the API server; its requests are counted."""
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    requests: Counter = Counter()

    def call(scenario):
        async def connect():
            async with connected(lambda *request: requests.update([request])) as api:
                return await scenario(api)

        return asyncio.run(connect())

    call.requests = requests
    return call


def test_the_api_server_serves_runs(ask):
    async def scenario(api):
        return await api.is_served()

    assert ask(scenario) is True


def test_a_run_that_is_not_there_is_not_found(ask, namespace):
    async def scenario(api):
        await api.get_run(RunKey(namespace, "nobody"))

    with pytest.raises(ApiNotFoundError, match=f"get annotationruns at .*/{namespace}/.*nobody.*not found"):
        ask(scenario)
    assert ask.requests == {("get", "annotationruns", 404): 1}


def test_a_status_is_replaced_whole(server, ask, namespace):
    key = make_run(server, namespace)

    async def scenario(api):
        run = await api.get_run(key)
        version = run["metadata"]["resourceVersion"]
        first = {"observedGeneration": 1, "completionTime": "2026-01-01T00:00:00Z"}
        written = await api.write_status(key, version, first)
        await api.write_status(key, written["metadata"]["resourceVersion"], {"observedGeneration": 1})
        return run, await api.get_run(key)

    before, after = ask(scenario)
    assert before["status"] == {"observedGeneration": -1}
    assert after["status"] == {"observedGeneration": 1}
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_status_is_not_written_over_a_change(server, ask, namespace):
    key = make_run(server, namespace)

    async def scenario(api):
        version = (await api.get_run(key))["metadata"]["resourceVersion"]
        server.api.patch(f"{RUNS.format(namespace)}/run", {"spec": {"suspend": True}})
        await api.write_status(key, version, {"observedGeneration": 1})

    with pytest.raises(ApiConflictError, match="object has been modified"):
        ask(scenario)
    assert server.api.get(f"{RUNS.format(namespace)}/run")["status"] == {"observedGeneration": -1}


def test_a_status_that_does_not_fit_the_schema_is_refused(server, ask, namespace):
    key = make_run(server, namespace)

    async def scenario(api):
        version = (await api.get_run(key))["metadata"]["resourceVersion"]
        await api.write_status(key, version, {"plan": {"jobName": "x" * 64}})

    with pytest.raises(ApiRefusedError, match=r"HTTP 422: .*status\.plan\.jobName: Too long"):
        ask(scenario)


def test_the_runs_of_a_namespace_and_of_all_are_listed_by_version(server, ask, namespace):
    keys = {make_run(server, namespace, f"run-{number}") for number in range(3)}
    other = make_run(server, server.new_namespace())

    async def scenario(api):
        return [[run async for run in api.list_run_versions(scope)] for scope in (namespace, None)]

    here, everywhere = ask(scenario)
    assert {run.key for run in here} == keys
    assert {run.key for run in everywhere} >= {*keys, other}
    raw = server.api.get(f"{RUNS.format(namespace)}/run-0")["metadata"]
    assert {(run.uid, run.resource_version) for run in here} >= {(raw["uid"], raw["resourceVersion"])}


def test_a_namespace_without_runs_has_an_empty_list(ask, namespace):
    async def scenario(api):
        await api.check_children(namespace)
        return [run async for run in api.list_run_versions(namespace)]

    assert ask(scenario) == []


def test_children_are_found_by_the_runs_uid_on_all_pages(server, ask, namespace, monkeypatch):
    monkeypatch.setattr(cluster_api, "_PAGE_OBJECTS", 2)
    for number in range(5):
        server.api.create(JOBS.format(namespace), make_job(namespace, "mine", f"mine-{number}"))
    server.api.create(JOBS.format(namespace), make_job(namespace, "other", "other"))

    async def scenario(api):
        jobs = [job["metadata"]["name"] async for job in api.list_jobs(namespace, "mine")]
        return jobs, [pod async for pod in api.list_pods(namespace, "mine")]

    assert ask(scenario) == ([f"mine-{number}" for number in range(5)], [])
    assert ask.requests["list", "jobs", 200] == 3


def test_a_job_is_created_once(ask, namespace):
    async def scenario(api):
        await api.create_job(namespace, make_job(namespace))
        await api.create_job(namespace, make_job(namespace))

    with pytest.raises(ApiConflictError, match='"job" already exists'):
        ask(scenario)


def test_a_job_that_is_wrong_is_refused_with_what_is_wrong(ask, namespace):
    wrong = make_job(namespace)
    wrong["spec"] = {"template": {"spec": {**TEMPLATE["spec"], "restartPolicy": "Always"}}}

    async def scenario(api):
        await api.create_job(namespace, wrong)

    with pytest.raises(ApiRefusedError, match=r"restartPolicy: Required value") as raised:
        ask(scenario)
    assert raised.value.code == 422


def test_a_job_is_deleted_by_its_uid_only(ask, namespace):
    async def scenario(api):
        job = await api.create_job(namespace, make_job(namespace))
        with pytest.raises(ApiConflictError, match="the UID in the precondition"):
            await api.delete_job(namespace, "job", "00000000-0000-0000-0000-000000000000")
        await api.delete_job(namespace, "job", job["metadata"]["uid"])
        with pytest.raises(ApiNotFoundError):
            await api.get_job(namespace, "job")

    ask(scenario)


def test_the_warnings_about_a_job_are_found(server, ask, namespace):
    def event(name: str, kind: str, uid: str) -> dict:
        about = {"kind": "Job", "name": "job", "namespace": namespace, "uid": uid}
        metadata = {"name": name, "namespace": namespace}
        return {"metadata": metadata, "involvedObject": about, "type": kind, "reason": "R", "message": name}

    for made in (event("w", "Warning", "u1"), event("n", "Normal", "u1"), event("o", "Warning", "u2")):
        server.api.create(f"/api/v1/namespaces/{namespace}/events", made)

    async def scenario(api):
        return [found["message"] for found in await api.list_warnings(namespace, "u1")]

    assert ask(scenario) == ["w"]


def test_what_a_user_may_not_do_is_refused(server, ask, namespace, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(server.user(f"nobody-{namespace}")))

    async def scenario(api):
        async for _ in api.list_run_versions(namespace):
            pass

    with pytest.raises(ApiRefusedError, match=r'HTTP 403: .*cannot list resource "annotationruns"'):
        ask(scenario)


def test_an_api_server_that_is_not_there_is_tried_again(server, ask, tmp_path, monkeypatch):
    config = server.kubeconfig.read_text(encoding="utf-8").replace(server.api.server, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").write_text(config, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))

    async def scenario(api):
        await api.get_run(RunKey("default", "run"))

    with pytest.raises(ApiUnavailableError, match=r"get annotationruns .* no answer: Client"):
        ask(scenario)
    assert ask.requests == {("get", "annotationruns", 0): 1}


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        pytest.param(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n", ApiUnavailableError, "HTTP 503", id="busy"),
        pytest.param(b"HTTP/1.1 429 Too Many\r\n", ApiUnavailableError, "HTTP 429", id="too many requests"),
        pytest.param(b"HTTP/1.1 401 Who\r\n", ApiUnavailableError, "HTTP 401", id="a token that has run out"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", ApiUnavailableError, "no JSON", id="a login page"),
        pytest.param(b"HTTP/1.1 400 Bad\r\n", ApiRefusedError, "HTTP 400", id="a bad request"),
    ],
)
def test_answers_of_a_proxy_between_become_errors(ask, tmp_path, monkeypatch, answer, error, said):
    async def reply(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer + b"Content-Length: 6\r\nConnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    async def scenario(_):
        proxy = await asyncio.start_server(reply, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        (tmp_path / "kubeconfig").write_text(plain_kubeconfig(f"http://127.0.0.1:{port}"), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        async with proxy, connected(lambda *request: None) as api:
            await api.get_run(RunKey("default", "run"))

    with pytest.raises(error, match=said) as raised:
        ask(scenario)
    if b"Retry-After" in answer:
        assert raised.value.retry_after_seconds == 7


@pytest.mark.parametrize("content", [None, "clusters: []", "{"], ids=["no file", "no context", "no YAML"])
def test_a_kubeconfig_that_is_no_use_is_named(ask, tmp_path, monkeypatch, content):
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(path))

    async def scenario(api):
        raise AssertionError("connected")

    with pytest.raises(ConnectionSettingsError, match=str(path)):
        ask(scenario)
