"""What an attack cost the process that was attacked: seconds, and the most memory that it had (Linux)."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TITLE = "attacks"
"""Of the table that the rows of all attacks stand in."""


@dataclass
class Cost:
    """Known at the end of the context that measures it."""

    seconds: float = 0.0
    peak_mebibytes: float = 0.0
    """Resident in the process at one time."""
    more_mebibytes: float = 0.0
    """Of these, what was not resident before."""
    busy_seconds: float = 0.0
    """Of the processor, in all: a busy machine adds none."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures what is done within it, by this process alone."""
    cost = Cost()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, started = _peak_mebibytes(), time.monotonic()
    try:
        yield cost
    finally:
        cost.seconds = time.monotonic() - started
        cost.peak_mebibytes = _peak_mebibytes()
        cost.more_mebibytes = cost.peak_mebibytes - before


def run_attacked(
    *arguments: object, environment: Mapping[str, str], limit_seconds: float = 120.0
) -> tuple[subprocess.CompletedProcess[str], Cost]:
    """`annotationrun ARGUMENTS` in a Python of its own, and what that cost; of memory its largest process."""
    command = [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)]
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
    ):
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **environment})
        timer = threading.Timer(limit_seconds, process.kill)
        timer.start()
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, stdout.read(), stderr.read())
    peak = used.ru_maxrss / 1024
    return done, Cost(time.monotonic() - started, peak, peak, used.ru_utime + used.ru_stime)


def row(printed: Callable[[str, str], None], attack: str, outcome: str, cost: Cost) -> None:
    """A line of the table: attack, exit code or condition, peak memory, seconds."""
    printed(f"{attack:<66} {outcome:<30} {cost.peak_mebibytes:6.0f} MiB {cost.seconds:6.1f} s", TITLE)


def _peak_mebibytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
