"""The commands as the pods of a cluster call them: results for the operator, a server that starts late."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.checkout import ROOT
from tests.support.module_runs import demo_model, look
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import MergeOutcome, PlanResult, WorkerProgress, read_result

SAMPLE = ROOT / "crds/samples/folder-on-a-volume.yaml"
NO_SERVER = "http://127.0.0.1:9/v1"
MODULES = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
SPEC = {"source": {"episodes": "0,3,5"}}
SECONDS = 120
"""For what should take a moment."""


def start(*arguments, **environment):
    command = [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )


def told(command, manifest, kind, file, expected=ExitCode.OK, *options):
    """What a step writes for the operator, into a file that is there already and stays the same one."""
    file.write_text("x" * 9000)
    inode = file.stat().st_ino
    done = run_command(command, "-f", manifest, "--result", file, *options)
    assert done.returncode == expected, done.stderr
    assert file.stat().st_ino == inode
    return read_result(file.read_text(), kind)


def marks(folder):
    return sorted(
        str(path.relative_to(folder / "output.staging/progress"))
        for path in (folder / "output.staging").glob("progress/**/*")
        if path.is_file()
    )


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A folder in which everything is staged and nothing merged; its manifest names a server that is gone."""
    folder = tmp_path_factory.mktemp("annotated")
    with demo_model() as server:
        manifest = write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC)
        done = run_command("annotate", "-f", manifest, "--limit", 3)
        assert done.returncode == ExitCode.OK, done.stderr
    return folder


def test_the_steps_tell_the_operator_what_they_did(tmp_path):
    """Each is a pod of its own; nothing but the manifest and the volumes is shared."""
    file = tmp_path / "termination-log"
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        planned = told("plan", manifest, PlanResult, file)
        assert (planned.episodes, planned.pending) == (3, 3)
        missing = told("merge", manifest, MergeOutcome, file, ExitCode.INCOMPLETE)
        assert (missing.outcome, missing.plan, missing.total) == ("Missing", planned.plan, 3)
        assert (missing.done, missing.failed, missing.results) == (0, 0, 0)
        annotated = run_command("annotate", "-f", manifest, "--plan", planned.plan)
        assert annotated.returncode == ExitCode.OK, annotated.stderr
        asked = len(server.bodies)
    again = told("plan", manifest, PlanResult, file)
    assert (again.plan, again.pending) == (planned.plan, 0)
    assert marks(tmp_path) == [f"{planned.plan}/done/{episode}" for episode in (0, 3, 5)]
    published = told("merge", manifest, MergeOutcome, file)
    assert (published.outcome, published.done, published.results) == ("Published", 3, 3)
    assert published.place == f"folder {tmp_path / 'output'}"
    record = json.loads((tmp_path / "output/meta/annotationrun.json").read_text())
    assert published.merge_digest == record["mergeDigest"]
    unchanged = told("merge", manifest, MergeOutcome, file)
    assert unchanged == published.model_copy(update={"outcome": "Unchanged"})
    assert asked > 0


def test_episodes_that_are_given_up_are_marked_and_told_until_a_new_token_tries_them_again(tmp_path):
    """Results that another worker may still make count in part."""
    file = tmp_path / "termination-log"
    modules = MODULES | {"plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}}

    def fails_at_vqa(number, body):
        of_episode_3 = "Stack" in json.dumps(body["messages"])
        is_vqa = body["response_format"]["json_schema"]["name"].startswith("vqa")
        return Reply("I can't tell.") if of_episode_3 and is_vqa else look(body)

    with demo_model(fails_at_vqa) as server:
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, modules,
            source={"episodes": "0,3"}, workers={"episodeAttempts": 2},
        )  # fmt: skip
        done = run_command("annotate", "-f", manifest)
        assert done.returncode == ExitCode.INCOMPLETE
        outcome = told("merge", manifest, MergeOutcome, file, ExitCode.INCOMPLETE)
        assert (outcome.outcome, outcome.total, outcome.done, outcome.failed) == ("TooManyFailed", 2, 1, 1)
        assert outcome.results == 3
        (failure,) = outcome.failures
        assert (failure.episode_index, failure.module, failure.attempts) == (3, "vqa", 2)
        assert "answers are unusable" in failure.cause
        assert [mark.rpartition("/")[2] for mark in marks(tmp_path) if "/failed/" in mark] == ["3"]
        assert [mark.rpartition("/")[2] for mark in marks(tmp_path) if "/done/" in mark] == ["0"]
        assert told("plan", manifest, PlanResult, file).pending == 1
        again = told("merge", manifest, MergeOutcome, file, ExitCode.INCOMPLETE, "--retry-token", "try again")
        assert (again.outcome, again.done, again.failed, again.results) == ("Missing", 1, 0, 3)
        server.script = lambda number, body: look(body)
        done = run_command("annotate", "-f", manifest, "--retry-token", "try again")
        assert done.returncode == ExitCode.OK, done.stderr
    assert told("plan", manifest, PlanResult, file).pending == 0
    assert told("merge", manifest, MergeOutcome, file).outcome == "Published"


def test_a_step_that_fails_leaves_the_word_to_its_log(tmp_path):
    manifest = write_manifest(tmp_path, tmp_path / "nowhere", NO_SERVER, MODULES)
    file = tmp_path / "termination-log"
    file.write_text("")
    for command in ("plan", "merge"):
        done = run_command(command, "-f", manifest, "--result", file)
        assert done.returncode == ExitCode.DATASET
        assert file.read_text() == ""


def test_a_result_that_can_not_be_written_is_an_error(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    done = run_command("plan", "-f", manifest, "--result", tmp_path)
    assert done.returncode == ExitCode.STORAGE
    assert f"can't write the result to '{tmp_path}'" in done.stderr


def test_a_worker_that_finds_nothing_to_do_waits_for_no_server(annotated):
    """It marks what it finds, as the one that made it may have died just before."""
    before, started = marks(annotated), time.monotonic()
    shutil.rmtree(annotated / "output.staging/progress")
    done = run_command(
        "annotate", "-f", annotated / "manifest.yaml", "--limit", 3,
        "--endpoint", NO_SERVER, "--start-timeout-seconds", 86_400,
    )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert "0 results made, 3 reused" in done.stdout
    assert time.monotonic() - started < SECONDS
    assert marks(annotated) == before
    assert len(before) == 3


def test_a_server_that_is_not_ready_in_time_is_named(tmp_path):
    manifest = write_manifest(tmp_path, REFERENCE, NO_SERVER, MODULES, **SPEC)
    done = run_command("annotate", "-f", manifest, "--start-timeout-seconds", 2)
    assert done.returncode == ExitCode.SERVER_NOT_READY
    assert re.search(rf"was not ready within 2 s: .*{NO_SERVER}.*Connection", done.stderr)
    assert not list((tmp_path / "output.staging").glob("claims/**/*"))


def read_until(process, text):
    """Lines of stderr up to one with ``text``; the test's own time limit bounds it."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"no {text!r} in {lines}")


def loading_server():
    """A context with the demo model, which is not healthy until its `ready` is set; and that event."""
    ready = threading.Event()
    return ready, lambda number: Reply(body=b"") if ready.is_set() else Reply(status=503, body=b"")


def test_a_worker_that_waits_for_its_server_leaves_the_work_to_others(tmp_path):
    """The other worker has its own server, makes all of it, and both end with nothing asked of the first."""
    _, health = loading_server()
    with demo_model() as loading, demo_model() as running:
        loading.health = health
        manifest = write_manifest(tmp_path, REFERENCE, loading.base_url, MODULES, **SPEC)
        waiting = start("annotate", "-f", manifest, "--start-timeout-seconds", 3600)
        read_until(waiting, "waiting for the model server, 3600 s at most")
        assert not list((tmp_path / "output.staging").glob("claims/**/*"))
        other = run_command("annotate", "-f", manifest, "--endpoint", running.base_url)
        assert other.returncode == ExitCode.OK, other.stderr
        assert "3 results made" in other.stdout
        _, said = waiting.communicate(timeout=SECONDS)
        assert waiting.returncode == ExitCode.OK, said
        assert loading.bodies == []


def test_a_worker_begins_when_its_server_is_ready(tmp_path):
    ready, health = loading_server()
    with demo_model() as server:
        server.health = health
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        worker = start("annotate", "-f", manifest, "--start-timeout-seconds", 3600)
        read_until(worker, "waiting for the model server")
        assert server.bodies == []
        ready.set()
        _, said = worker.communicate(timeout=SECONDS)
        assert worker.returncode == ExitCode.OK, said
        assert server.bodies


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_worker_that_waits_for_its_server_can_be_stopped(tmp_path, stop):
    _, health = loading_server()
    with demo_model() as server:
        server.health = health
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        worker = start("annotate", "-f", manifest, "--start-timeout-seconds", 3600, "--progress-port", 0)
        read_until(worker, "waiting for the model server")
        worker.send_signal(stop)
        started = time.monotonic()
        _, said = worker.communicate(timeout=SECONDS)
        assert time.monotonic() - started < 10
    assert worker.returncode == ExitCode.INTERRUPTED
    assert said == "annotationrun: interrupted; what was answered is staged, run again to go on\n"
    assert not list((tmp_path / "output.staging").glob("workers/*"))


def test_a_server_that_is_killed_in_mid_run_and_started_again_is_waited_for(tmp_path):
    log = tmp_path / "log.jsonl"

    def serve(port):
        command = [sys.executable, "-m", "annotationrun_worker.demo.vlm_server", "--log", str(log)]
        process = subprocess.Popen(
            [*command, "--port", str(port), "--latency-seconds", "0.2"], stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().split()[-1]

    first, url = serve(0)
    try:
        manifest = write_manifest(
            tmp_path, REFERENCE, url, MODULES, workers={"requestConcurrency": 1}, **SPEC
        )
        worker = start("annotate", "-f", manifest, "--start-timeout-seconds", 3600)
        while not log.exists() or log.read_bytes().count(b"\n") < 3:
            assert worker.poll() is None
            time.sleep(0.02)
    finally:
        first.kill()
        first.communicate()
    read_until(worker, "waiting for the model server")
    second, _ = serve(url.rpartition(":")[2].removesuffix("/v1"))
    try:
        _, said = worker.communicate(timeout=SECONDS)
    finally:
        second.kill()
        second.communicate()
    assert worker.returncode == ExitCode.OK, said
    requests = [json.loads(line)["digest"] for line in log.read_text().splitlines()]
    assert len(requests) <= len(set(requests)) + 1


def ask_progress(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", "/progress")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return read_result(body, WorkerProgress) if response.status == 200 else None


def test_a_worker_tells_how_far_the_plan_is_while_it_works(tmp_path):
    """One episode of two is held back until the other is told to be done."""
    go_on = threading.Event()

    def holds_one_back(number, body):
        if "Stack" in json.dumps(body["messages"]):
            assert go_on.wait(SECONDS)
        return look(body)

    with demo_model(holds_one_back) as server:
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, MODULES,
            source={"episodes": "0,3"}, workers={"requestConcurrency": 1000},
        )  # fmt: skip
        worker = start("annotate", "-f", manifest, "--progress-port", 0)
        port = int(re.search(r"progress at port (\d+), /progress", read_until(worker, "progress")[-1])[1])
        found, deadline = [], time.monotonic() + SECONDS
        while (not found or found[-1].done < 1) and time.monotonic() < deadline:
            found += [seen] if (seen := ask_progress(port)) else []
            time.sleep(0.1)
        go_on.set()
        _, said = worker.communicate(timeout=SECONDS)
    assert worker.returncode == ExitCode.OK, said
    assert (found[-1].done, found[-1].total, found[-1].failed) == (1, 2, 0)
    assert found[-1].server.startswith("'demo-vlm'; JSON schemas are honoured; the largest prompt has 1 pic")


def test_a_run_by_several_processes_marks_what_they_did(tmp_path):
    with demo_model() as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        done = run_command("run", "-f", manifest, "--workers", 2)
    assert done.returncode == ExitCode.OK, done.stderr
    assert len(marks(tmp_path)) == 3


def test_a_manifest_made_for_a_cluster_is_carried_out_step_by_step(tmp_path):
    """A sample as it is shipped, volumes mapped to folders, the model's name served under another address."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "so101_pick").symlink_to(REFERENCE)
    manifest = yaml.safe_load(SAMPLE.read_text())
    manifest["spec"]["source"]["episodes"] = "3"
    manifest["spec"]["modules"]["plan"]["taskRephrasings"] = 0
    manifest["spec"] |= {"queueName": "q", "ttlSecondsAfterFinished": 5, "activeDeadlineSeconds": 60}
    manifest["spec"]["model"]["serving"] |= {"cache": {"claimName": "models"}, "startTimeoutSeconds": 3}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(manifest))
    options = ("-f", path, "--volume", f"datasets={volume}")
    with scripted_server(lambda n, b: look(b), models=(manifest["spec"]["model"]["id"],)) as server:
        for command in (
            ("plan", *options),
            ("annotate", *options, "--endpoint", server.base_url, "--start-timeout-seconds", 3),
            ("merge", *options, "--result", tmp_path / "result"),
        ):
            done = run_command(*command)
            assert done.returncode == ExitCode.OK, done.stderr
    result = read_result((tmp_path / "result").read_text(), MergeOutcome)
    assert result.place == "volume datasets, folder so101_pick_annotated"
    assert sorted(path.name for path in volume.iterdir()) == ["so101_pick", "so101_pick_annotated", "staging"]


KEY = "sk-hunter2"


def test_the_key_in_the_environment_is_sent_and_shown_nowhere(tmp_path, monkeypatch):
    def refuses(number, body):
        return Reply(status=401, error=f"Incorrect API key provided: {KEY}") if number == 1 else look(body)

    serving = {"mode": "External", "apiKeySecretRef": {"name": "a", "key": "b"}}
    with demo_model(refuses) as server:
        serving["endpoints"] = [server.base_url]
        manifest = write_manifest(
            tmp_path,
            REFERENCE,
            server.base_url,
            MODULES,
            model={"id": "demo-vlm", "serving": serving},
            **SPEC,
        )
        without = run_command("annotate", "-f", manifest)
        assert without.returncode == ExitCode.CONFIGURATION
        assert "ANNOTATIONRUN_API_KEY" in without.stderr
        assert server.keys == set()
        monkeypatch.setenv("ANNOTATIONRUN_API_KEY", f"{KEY}\n")
        report = tmp_path / "report.json"
        refused = run_command("annotate", "-f", manifest, "--report", report)
        assert refused.returncode == ExitCode.CONFIGURATION
        done = run_command("run", "-f", manifest, "--report", report, "--workers", 2)
        assert done.returncode == ExitCode.OK, done.stderr
        assert server.keys == {f"Bearer {KEY}"}
    said = "".join((without.stderr, refused.stderr, refused.stdout, done.stdout, done.stderr))
    assert "hunter2" not in said
    staged = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in staged


READ_ONLY = """
volume=$1; shift
mount --bind "$volume" "$volume"
while read -r _ point _; do
  case $point in "$volume"|/proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$point" ;; esac
done < /proc/self/mounts
for folder in / /tmp "$HOME" "$PWD"; do
  if touch "$folder/probe" 2>/dev/null; then echo "$folder can be written" >&2; exit 99; fi
done
exec "$@"
"""
"""Runs a command with all file systems read-only but for one folder."""


@pytest.mark.needs_root
@pytest.mark.parametrize("command", ["plan", "annotate", "merge"])
def test_a_step_writes_nothing_outside_the_volumes_and_the_folder_for_temporary_files(tmp_path, command):
    volume = tmp_path / "volume"
    (volume / "tmp").mkdir(parents=True)
    with demo_model() as server:
        manifest = write_manifest(volume, REFERENCE, server.base_url, MODULES, source={"episodes": "3"})
        if command == "merge":
            assert run_command("annotate", "-f", manifest).returncode == ExitCode.OK
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", READ_ONLY, "sh", volume]
        done = subprocess.run(
            [*words, sys.executable, "-m", "annotationrun_worker", command, "-f", manifest],
            env=os.environ | {"HOME": "/nonexistent", "TMPDIR": str(volume / "tmp")},
            capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
    assert done.returncode == ExitCode.OK, done.stderr
    assert [line for line in done.stderr.splitlines() if "model server: 'demo-vlm'" not in line] == []
    assert list((volume / "tmp").iterdir()) == []
