"""A run that is stopped in its first seconds, imports included, says so in one line."""

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

LOADED = "import annotationrun_worker.__main__, sys; print(*{name.partition('.')[0] for name in sys.modules})"
"""Prints what is imported, packages alone, when the command line comes to its first step: the handlers."""


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


def wait_for_handler(process) -> None:
    """Wait until the process handles SIGTERM."""
    status = Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + 60
    while True:
        caught = next(
            line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("SigCgt:")
        )
        if int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1):
            return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_handlers_are_set_before_anything_that_takes_time_is_imported():
    command = [sys.executable, "-c", LOADED]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "annotationrun_worker" in loaded
    third_party = {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")}
    assert third_party <= {"annotationrun_worker", "annotationrun_api", "sitecustomize"}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6, 1.0, 2.0])
def test_a_run_stopped_as_it_starts_ends_with_130_and_one_line(starting_run, stop, seconds):
    start = time.monotonic()
    wait_for_handler(starting_run)
    time.sleep(max(0.0, start + seconds - time.monotonic()))
    starting_run.send_signal(stop)
    _, said = starting_run.communicate(timeout=30)
    assert starting_run.returncode == ExitCode.INTERRUPTED
    assert said.startswith("annotationrun: interrupted")
    assert said.count("\n") == 1
