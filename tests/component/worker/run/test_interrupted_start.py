"""A run that is stopped in its first seconds, imports included, says so in one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.annotation import REFERENCE, write_manifest
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode

HANDLED_CPU_SECONDS = 0.5
"""Python itself starts in a tenth of that; the imports of a run take three times as much."""


@pytest.fixture
def starting_run(tmp_path):
    """`annotationrun run` against a server that never answers a question: it can only be stopped."""
    done = threading.Event()

    def script(number, body):
        done.wait(timeout=60)
        return Reply(status=503)

    with scripted_server(script, models=("demo-vlm",)) as server:
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url)
        process = subprocess.Popen(
            [sys.executable, "-m", "annotationrun_worker", "run", "-f", str(manifest)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            done.set()
            process.kill()
            process.communicate()


def wait_for_handler(process) -> float:
    """Wait until the process handles SIGTERM; returns the CPU seconds that it took to get there."""
    status, stat = Path(f"/proc/{process.pid}/status"), Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 60
    while True:
        used = sum(map(int, stat.read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]))
        caught = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("SigCgt:")
        )
        if int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1):
            return used / os.sysconf("SC_CLK_TCK")
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6, 1.0, 2.0])
def test_a_run_stopped_as_it_starts_ends_with_130_and_one_line(starting_run, stop, seconds):
    start = time.monotonic()
    assert wait_for_handler(starting_run) < HANDLED_CPU_SECONDS
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    starting_run.send_signal(stop)
    _, said = starting_run.communicate(timeout=30)
    assert starting_run.returncode == ExitCode.INTERRUPTED
    assert said.startswith("annotationrun: interrupted")
    assert said.count("\n") == 1
