"""What a run has cost: what its workers staged of their counts equals what the model's server counted."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.module_runs import demo_model, look
from tests.support.openai_server import Reply, answer_probe

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.step_results import MergeOutcome, read_result

MODULES = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
SPEC = {"source": {"episodes": "0,1"}}
ONE_AT_A_TIME = {"workers": {"requestConcurrency": 1}}
VIDEO_SECONDS = round((120 + 225) / 30)
"""Of both episodes."""
SECONDS = 300


@dataclass
class Meter:
    """What the server counted: all that it answered, what only tried it included."""

    answered: int = 0
    questions: int = 0
    """Of them, of the annotation."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    hold_at: int | None = None
    """From this question on no answer is given until `released` is set."""
    holds: int = 0
    """Questions that were held up to now."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set when a question is held: with one request at a time, all answers before were taken in."""
    released: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, number, body):
        with self.lock:
            is_held = self.hold_at is not None and self.questions >= self.hold_at
            released = self.released
            self.holds += is_held
        if is_held:
            self.held.set()
            assert released.wait(SECONDS)
        reply = self._counted(look(body).content)
        with self.lock:
            self.questions += 1
        return reply

    def answer_probe(self, number, body):
        return self._counted(answer_probe(number, body).content)

    def _counted(self, content):
        with self.lock:
            self.answered += 1
            tokens = {
                "prompt_tokens": 1000 + self.answered,
                "completion_tokens": 7 + self.answered % 3,
                "prompt_tokens_details": {"cached_tokens": 10 * (self.answered % 5)},
            }
            self.prompt_tokens += tokens["prompt_tokens"]
            self.completion_tokens += tokens["completion_tokens"]
            self.cached_tokens += tokens["prompt_tokens_details"]["cached_tokens"]
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return Reply(body=json.dumps({"choices": [choice], "usage": tokens}).encode())

    def hold_again_at(self, questions):
        """Let go what is held, up to another question; None: all."""
        with self.lock:
            released, self.released = self.released, threading.Event()
            self.hold_at = questions
            self.held.clear()
        released.set()

    @property
    def counts(self):
        return (self.answered, self.prompt_tokens, self.completion_tokens, self.cached_tokens)


@contextmanager
def metered_model(folder, **spec):
    """A meter, and the manifest of a run that asks the server that it belongs to."""
    meter = Meter()
    with demo_model(meter.answer) as server:
        server.probe = meter.answer_probe
        try:
            yield meter, write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC, **spec)
        finally:
            meter.released.set()


@pytest.fixture
def start():
    """Starts a worker; what is still there at the end is killed."""
    started = []

    def begin(manifest, *options):
        command = [sys.executable, "-m", "annotationrun_worker", "annotate", "-f", str(manifest), *options]
        started.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ends_well(worker):
    _, said = worker.communicate(timeout=SECONDS)
    assert worker.returncode == ExitCode.OK, said


def merged(manifest, folder, *options) -> RunUsage:
    """What the merge tells the operator."""
    file = folder / "termination-log"
    done = run_command("merge", "-f", manifest, "--result", file, *options)
    assert done.returncode == ExitCode.OK, done.stderr
    return read_result(file.read_text(), MergeOutcome).usage


def counts_of(usage: RunUsage):
    assert usage.requests == usage.answered
    return (usage.answered, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


def staged(folder, account):
    """The workers' objects of an account, by name."""
    files = (folder / "output.staging/usage").glob(f"{account}/*.json")
    return {file.name: json.loads(file.read_text()) for file in files}


def wait_until(is_so):
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_sum_over_the_workers_is_what_the_server_counted(tmp_path, start):
    """Each holds its own GPUs; what another run of the same plan finds done has cost that run nothing."""
    with metered_model(tmp_path, **ONE_AT_A_TIME) as (meter, manifest):
        meter.hold_at = 0
        workers = [start(manifest, "--account", "run-1", "--gpus", "2") for _ in range(2)]
        wait_until(lambda: meter.holds == 2)
        meter.hold_again_at(None)
        for worker in workers:
            ends_well(worker)
        usage = merged(manifest, tmp_path, "--account", "run-1")
        assert counts_of(usage) == meter.counts
        files = staged(tmp_path, "run-1")
        assert [found["answered"] > 0 for found in files.values()] == [True, True]
        assert usage.gpu_seconds == sum(found["gpu_seconds"] for found in files.values()) > 0
        assert usage.video_seconds == VIDEO_SECONDS
        hourly = (meter.prompt_tokens + meter.completion_tokens) * 3600 / VIDEO_SECONDS
        assert usage.tokens_per_video_hour == round(hourly)

        ends_well(start(manifest, "--account", "run-2"))
        second = merged(manifest, tmp_path, "--account", "run-2")
        assert staged(tmp_path, "run-2") == {}
        assert second == RunUsage(video_seconds=VIDEO_SECONDS)
        assert merged(manifest, tmp_path, "--account", "run-1") == usage


def test_a_worker_that_is_told_to_stop_stages_all_that_it_asked(tmp_path, start):
    """And its metrics say the same at that moment."""
    with metered_model(tmp_path, **ONE_AT_A_TIME) as (meter, manifest):
        meter.hold_at = 3
        worker = start(manifest, "--account", "run-1", "--gpus", "1", "--progress-port", "0")
        line = next(line for line in worker.stderr if "progress at port" in line)
        assert meter.held.wait(SECONDS)
        metrics = scrape(int(re.search(r"port (\d+)", line)[1]))
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=SECONDS)
        assert worker.returncode == ExitCode.INTERRUPTED
        (found,) = staged(tmp_path, "run-1").values()
        assert found["failed"] == 0
        names = ("answered", "prompt_tokens", "completion_tokens", "cached_tokens")
        assert tuple(found[name] for name in names) == meter.counts
        assert meter.questions == 3
        tokens = (
            metrics["annotationrun_worker_tokens_total", kind] for kind in ("prompt", "completion", "cached")
        )
        assert (metrics["annotationrun_worker_requests_total", "answered"], *tokens) == meter.counts
        assert metrics["annotationrun_worker_requests_total", "failed"] == 0
        assert 0 < metrics["annotationrun_worker_gpu_seconds_total", ""] <= found["gpu_seconds"]


def test_a_killed_worker_takes_along_only_what_it_asked_since_it_last_wrote(tmp_path, start):
    """Another goes on; of the answers that were noted none is lost, of the two after them some may be.

    SIGKILL leaves no time: what was answered is staged and not asked again, but the counts of the last few
    seconds, up to a heartbeat's, are missing in the sum.
    """
    with metered_model(tmp_path, **ONE_AT_A_TIME) as (meter, manifest):
        meter.hold_at = 3
        killed = start(manifest)
        assert meter.held.wait(SECONDS)
        first = meter.answered
        (plan,) = (file.stem for file in (tmp_path / "output.staging/plans").iterdir())
        wait_until(lambda: [found["answered"] for found in staged(tmp_path, plan).values()] == [first])
        meter.hold_again_at(5)
        assert meter.held.wait(SECONDS)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate(timeout=SECONDS)
        meter.hold_again_at(None)
        wait_until(lambda: meter.answered == first + 3)  # the last of them to nobody
        (noted,) = (found["answered"] for found in staged(tmp_path, plan).values())
        assert first <= noted <= first + 2

        ends_well(start(manifest))
        usage = merged(manifest, tmp_path)
        assert len(staged(tmp_path, plan)) == 2
        assert usage.answered == meter.answered - (first + 3 - noted)


def scrape(port):
    """Values by name and label."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type").startswith("text/plain")
        text = response.read().decode()
    finally:
        connection.close()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(list(sample.labels.values()) or [""])): sample.value for sample in samples}


@pytest.mark.parametrize("workers", [1, 2], ids=["one process", "two"])
def test_a_run_reports_its_own_cost_and_a_second_one_that_asks_nothing_none(tmp_path, workers):
    report = tmp_path / "report.json"
    with metered_model(tmp_path) as (meter, manifest):
        command = ("run", "-f", manifest, "--report", report, "--workers", str(workers))
        first = run_command(*command)
        assert first.returncode == ExitCode.OK, first.stderr
        cost = json.loads(report.read_text())["cost"]
        assert (
            cost["answered"],
            cost["promptTokens"],
            cost["completionTokens"],
            cost["cachedTokens"],
        ) == meter.counts
        assert f"{meter.answered} requests, {meter.prompt_tokens:,} prompt and" in first.stdout
        assert "tokens a video-hour" in first.stdout
        assert "GPU" not in first.stdout, "of servers of others nothing is known"
        frames = json.loads(report.read_text())["frames"]
        assert frames["asked"] == frames["decoded"] + frames["fromCache"]
        assert frames["asked"] == meter.questions, "each question is about one frame, whichever process asks"
        assert f"{frames['decoded']} frames decoded, {frames['fromCache']} from the cache" in first.stdout
        asked = meter.answered
        second = run_command(*command)
        assert second.returncode == ExitCode.OK, second.stderr
        assert meter.answered == asked
        cost = json.loads(report.read_text())["cost"]
        assert (cost["requests"], cost["promptTokens"], cost["tokensPerVideoHour"]) == (0, 0, 0)
        assert "0 requests, 0 prompt and 0 output tokens" in second.stdout
