"""Several worker processes on one staging store: killed one after another, stopped, or taken for dead."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.faults.test_killed_runs import hashes, seen
from tests.support.annotation import REFERENCE, run_command, run_fresh_command, write_manifest
from tests.support.forked_command import ForkedCommand
from tests.support.openai_server import Reply, scripted_server
from tests.support.process_tree import is_there

from annotationrun_api.exit_codes import ExitCode

WORKERS = 4
EVERY_SECONDS = 3.0
MODULES = {"plan": {}, "interjections": {"minTimeSeconds": 1.0}, "vqa": {"emissionHz": 1.0}}
SPEC = {"workers": {"requestConcurrency": 2}}


def workers_of(parent: int) -> list[int]:
    """Process ids of the children of `parent`, in order of their start."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    return [int(pid) for pid in children.split()]


def children_of(parent: int) -> list[int]:
    """Process ids of the children that any thread of `parent` has started."""
    lists = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for path in lists for pid in path.read_text(encoding="ascii").split()]


def slowly(seconds: float):
    def script(number, body):
        time.sleep(seconds)
        return seen(number, body)

    return script


def run_process(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Hashes of the output, and the number of requests, of one worker that was left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with scripted_server(seen, models=("demo-vlm",)) as server:
        done = run_fresh_command(
            "run", "-f", write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC)
        )
        assert done.returncode == ExitCode.OK, done.stderr
        return hashes(folder / "output"), len(server.bodies)


def test_workers_of_which_one_is_killed_every_few_seconds_make_the_same_tree(tmp_path, undisturbed, printed):
    expected, requests = undisturbed
    with scripted_server(slowly(0.35), models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        process = run_process("run", "-f", manifest, "--workers", WORKERS)
        killed, answered = 0, len(server.bodies)
        while process.poll() is None:
            time.sleep(EVERY_SECONDS)
            alive = workers_of(process.pid) if process.poll() is None else []
            if len(alive) == WORKERS and len(server.bodies) > answered:
                answered = len(server.bodies)
                subprocess.run(["/bin/kill", "-KILL", str(alive[0])], check=True)
                killed += 1
        stdout, stderr = process.communicate()
    assert process.returncode == ExitCode.OK, stderr
    assert killed >= 3
    died = int(re.search(r"(\d+) worker processes died", stdout)[1])
    assert killed - 1 <= died <= killed  # the last may have been at its end
    assert hashes(tmp_path / "output") == expected
    twice = re.search(r"(\d+) made twice", stdout)
    printed(
        f"{WORKERS} workers, {killed} killed: {len(server.bodies)} requests ({requests} undisturbed), "
        f"{twice[1]} results made twice"
    )


def test_workers_share_the_work_and_ask_nothing_twice(tmp_path, undisturbed):
    expected, requests = undisturbed
    with scripted_server(slowly(0.05), models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        done = run_command("run", "-f", manifest, "--workers", 2)
    assert done.returncode == ExitCode.OK, done.stderr
    assert hashes(tmp_path / "output") == expected
    assert ", 18 results made, 0 reused, 0 made twice" in done.stdout
    shared = 2  # the check of coordinates, and questions about a task alone, may be asked by both at once
    assert requests <= len(server.bodies) <= requests + shared * 8
    assert not list((tmp_path / "output.staging/claims").rglob("*"))
    assert not list((tmp_path / "output.staging/workers").rglob("*"))


def test_two_runs_at_once_share_one_staging_store(tmp_path, undisturbed):
    """Each asks for what the other is not at, waits for the rest, and writes an output of its own."""
    with scripted_server(slowly(0.1), models=("demo-vlm",)) as server:
        runs = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            manifest = write_manifest(folder, REFERENCE, server.base_url, MODULES, **SPEC)
            runs.append(ForkedCommand("run", "-f", manifest, "--staging", tmp_path / "shared"))
        done = [run.wait() for run in runs]
    assert [run.returncode for run in done] == [ExitCode.OK, ExitCode.OK], done
    for name in ("one", "other"):
        assert hashes(tmp_path / name / "output") == undisturbed[0]
    made = [int(re.search(r"(\d+) results made", run.stdout)[1]) for run in done]
    assert sum(made) == 18
    assert min(made) > 0


def test_a_result_that_two_workers_made_counts_once_and_is_told(tmp_path):
    """One worker is taken for dead while the model is at its first question; in the end both made it."""
    modules = {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}}
    first_asked, go_on = threading.Event(), threading.Event()

    def script(number, body):
        if number == 0:
            first_asked.set()
            go_on.wait(timeout=120)
        return seen(number, body)

    with scripted_server(script, models=("demo-vlm",)) as server:
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, modules,
            source={"episodes": "0"}, workers={"requestConcurrency": 1},
        )  # fmt: skip
        first = run_process("annotate", "-f", manifest)
        assert first_asked.wait(timeout=120)
        first.send_signal(signal.SIGSTOP)
        (heartbeat,) = (tmp_path / "output.staging/workers").iterdir()
        heartbeat.unlink()
        second = run_command("annotate", "-f", manifest)
        first.send_signal(signal.SIGCONT)
        go_on.set()
        stdout, stderr = first.communicate(timeout=120)
    assert [first.returncode, second.returncode] == [ExitCode.OK, ExitCode.OK], stderr + second.stderr
    assert "1 made twice" in stdout
    assert "0 made twice" in second.stdout
    assert len(list((tmp_path / "output.staging/results").rglob("*.jsonl"))) == 1


def test_workers_that_die_without_an_answer_end_the_run(tmp_path):
    def kills_who_asks(number, body):
        for pid in workers_of(process.pid):
            subprocess.run(["/bin/kill", "-KILL", str(pid)], check=False)
        return Reply(status=500)

    with scripted_server(kills_who_asks, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        process = run_process("run", "-f", manifest, "--workers", 2)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == ExitCode.INCOMPLETE, stdout + stderr
    assert "workers died 3 times in a row without an answer between, the last by signal 9" in stderr


def test_what_stops_every_worker_stops_the_run_with_its_words(tmp_path):
    with scripted_server(lambda n, b: Reply(status=401, error="no such key"), models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        done = run_command("run", "-f", manifest, "--workers", 2)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "refuses the request (HTTP 401)" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_run_that_is_stopped_stops_its_workers(tmp_path, number):
    asked, done = threading.Event(), threading.Event()

    def never(number, body):
        asked.set()
        done.wait(timeout=120)
        return Reply(status=503)

    with scripted_server(never, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        process = run_process("run", "-f", manifest, "--workers", 2)
        assert asked.wait(timeout=120)
        workers = workers_of(process.pid)
        start = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        took = time.monotonic() - start
        done.set()
    assert process.returncode == ExitCode.INTERRUPTED, stderr
    assert "interrupted" in stderr
    assert took < 10
    assert len(workers) == 2
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_run_that_is_killed_takes_its_workers_with_it(tmp_path, printed):
    asked, done = threading.Event(), threading.Event()

    def never(number, body):
        asked.set()
        done.wait(timeout=120)
        return Reply(status=503)

    with scripted_server(never, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, **SPEC)
        with run_process("run", "-f", manifest, "--workers", 2) as process:
            assert asked.wait(timeout=120)
            workers = workers_of(process.pid)
            for pid in workers:  # they hear of nothing, and end all the same
                os.kill(pid, signal.SIGSTOP)
            decoders = [pid for worker in workers for pid in children_of(worker)]
            process.kill()
        start = time.monotonic()
        while left := [pid for pid in [*workers, *decoders] if is_there(pid)]:
            assert time.monotonic() - start < 5, f"{left} of the workers {workers}, decoders {decoders}"
            time.sleep(0.01)
        seconds = time.monotonic() - start
        done.set()
    assert len(workers) == 2
    assert decoders
    printed(f"{'run --workers 2 killed, workers stopped':44} all gone {seconds:6.2f} s", title="attacks")


def test_the_report_of_a_run_is_a_file_for_programs(tmp_path):
    def refuses_one_episode(number, body):
        schema = body["response_format"]["json_schema"]["name"]
        refused = schema.startswith("vqa") and "Stack" in json.dumps(body["messages"])
        return Reply("I can't tell.") if refused else seen(number, body)

    report = tmp_path / "report.json"
    with scripted_server(refuses_one_episode, models=("demo-vlm",)) as server:
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, {"vqa": {"emissionHz": 0.5, "questionTypes": ["count"]}},
            source={"episodes": "0-1"}, workers={"episodeAttempts": 2},
        )  # fmt: skip
        done = run_command("run", "-f", manifest, "--report", report)
        asked = len(server.bodies)
        again = run_command("run", "-f", manifest)
        assert len(server.bodies) == asked, "an episode that was given up is not tried again"
        seeds = {body["seed"] for body in server.bodies}
        server.script = seen
        retried = run_command("run", "-f", manifest, "--retry-token", "mended")
    assert done.returncode == again.returncode == ExitCode.INCOMPLETE
    value = json.loads(report.read_text())
    assert (value["exitCode"], value["merge"]) == (ExitCode.INCOMPLETE, None)
    (failure,) = value["failures"]
    assert (failure["episode"], failure["module"], failure["attempts"]) == (1, "vqa", 2)
    assert "answers are unusable" in failure["cause"]
    assert "(2 attempts)" in again.stderr
    assert "--retry-token" in again.stderr
    assert retried.returncode == ExitCode.OK, retried.stderr
    assert len(seeds) == 2
    assert len(server.bodies) > asked
    assert not seeds & {body["seed"] for body in server.bodies[asked:]}, (
        "what gave nothing is not asked again"
    )
