"""A run that is stopped ends soon, keeps what was answered, and the next one asks only for the rest."""

import signal
import subprocess
import sys
import time

import pytest
from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.demo.vlm_server import run_server

LATENCY_SECONDS = 0.15
REQUESTS_AT_ONCE = 4
STOP_SECONDS = 10


def wait_for_lines(path, count):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, f"no {count} requests within a minute"
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_run_loses_only_the_requests_in_flight(stop, tmp_path):
    log = tmp_path / "log.jsonl"
    with run_server(log, latency_seconds=LATENCY_SECONDS) as server:
        workers = {"requestConcurrency": REQUESTS_AT_ONCE}
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, source={"episodes": "0-2"}, workers=workers
        )
        command = [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(manifest)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        wait_for_lines(log, 20)
        process.send_signal(stop)
        start = time.monotonic()
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - start < STOP_SECONDS
        if stop != signal.SIGKILL:
            assert process.returncode == ExitCode.INTERRUPTED
            assert "interrupted; what was answered is staged" in said
        assert not (tmp_path / "output").exists()
        asked = len(log.read_text().splitlines())
        done = run_command("run", "-f", manifest)
        assert done.returncode == 0, done.stderr
        of_both = len(log.read_text().splitlines())
    probe, plan, vqa = 1, 3 * 2, 2 * (4 + 8 + 12)
    undisturbed = probe + plan + vqa
    assert asked < undisturbed
    assert undisturbed <= of_both <= undisturbed + REQUESTS_AT_ONCE
    episodes = read_frames(tmp_path / "output")
    assert [number for number, episode in episodes.items() if episode.persistent] == [0, 1, 2]


def test_sigterm_ends_a_run_that_a_shell_put_into_the_background(tmp_path):
    """Such a run ignores SIGINT; it gives back what it holds all the same."""
    log = tmp_path / "log.jsonl"
    with run_server(log, latency_seconds=LATENCY_SECONDS) as server:
        workers = {"requestConcurrency": 1}
        manifest = write_manifest(
            tmp_path, REFERENCE, server.base_url, source={"episodes": "0-2"}, workers=workers
        )
        command = [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(manifest)]
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        wait_for_lines(log, 5)
        process.send_signal(signal.SIGINT)
        wait_for_lines(log, 10)  # one was in flight: the others are asked after the signal
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert said.splitlines()[-1].startswith("annotationrun: interrupted; what was answered is staged")
    assert "Traceback" not in said
