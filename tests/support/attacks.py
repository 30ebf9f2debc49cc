"""Attacks: how what was attacked ended, and what that took of seconds and memory (Linux)."""

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

from tests.support.forked_command import ForkedCommand

TITLE = "attacks"
"""Of the table that the rows of all attacks stand in."""
MOST_BYTES = 1536 * 1024**2
"""Of all processes of a command together, at any time."""
MOST_SECONDS = 60.0
LOOK_SECONDS = 0.01
CANARY = "hf_canary1729canary1729canary1729"
SECRETS = ("HF_TOKEN", "ANNOTATIONRUN_API_KEY")
"""Of the environment, whose value must turn up nowhere."""


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
    """`annotationrun ARGUMENTS` in a Python of its own, and what that cost, the processor's seconds too."""
    command = [sys.executable, "-m", "annotationrun_worker", *map(str, arguments)]
    started = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8") as stderr,
    ):
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env={**os.environ, **environment})
        timer = threading.Timer(limit_seconds, process.kill)
        timer.start()
        watch = MemoryWatch(process.pid)  # in ru_maxrss what forked it counts too
        _, status, used = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, stdout.read(), stderr.read())
    peak = watch.stop() / 2**20
    return done, Cost(time.monotonic() - started, peak, peak, used.ru_utime + used.ru_stime)


def attacked(
    printed: Callable[[str, str], None],
    attack: str,
    *arguments: object,
    most_bytes: int = MOST_BYTES,
    most_seconds: float = MOST_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS`, which has to end in time, with little memory, no traceback and no secret."""
    started = time.monotonic()
    command = ForkedCommand(*arguments, environment=dict.fromkeys(SECRETS, CANARY))
    watch = MemoryWatch(command.pid)
    done = command.wait()
    cost = Cost(time.monotonic() - started, watch.stop() / 2**20)
    row(printed, attack, f"exit {done.returncode}", cost)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr[-4000:]
    assert CANARY not in done.stderr + done.stdout
    for name in filter(os.path.isdir, map(str, arguments)):
        held = [path for path in Path(name).rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in held if CANARY.encode() in path.read_bytes()]
    assert 0 < cost.peak_mebibytes <= most_bytes / 2**20
    assert cost.seconds <= most_seconds
    return done


class MemoryWatch:
    """Looks at the memory of a process and its descendants until it ends."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The most that they held together, each counted with the most that it held until then, in bytes."""
        self._done.set()
        self._thread.join()
        return self.peak_bytes

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            held = sum(_peak_mebibytes(pid) for pid in descendants(self._pid))
            self.peak_bytes = max(self.peak_bytes, int(held * 2**20))


def descendants(pid: int) -> list[int]:
    """The process and all that it and its threads have started, as far as they are there."""
    found, new = [], [pid]
    while new:
        found += new
        lists = [path for parent in new for path in Path(f"/proc/{parent}/task").glob("*/children")]
        new = [int(child) for path in lists for child in _read(path).split()]
    return found


def row(printed: Callable[[str, str], None], attack: str, outcome: str, cost: Cost) -> None:
    """A line of the table: attack, exit code or condition, peak memory, seconds."""
    printed(f"{attack:<66} {outcome:<30} {cost.peak_mebibytes:6.0f} MiB {cost.seconds:6.1f} s", TITLE)


def _peak_mebibytes(pid: int | str = "self") -> float:
    lines = (line.split() for line in _read(Path(f"/proc/{pid}/status")).splitlines())
    return next((int(words[1]) / 1024 for words in lines if words and words[0] == "VmHWM:"), 0.0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""
