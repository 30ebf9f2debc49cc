"""Runs a command and measures it: wall, CPU and memory of its whole process tree (Linux)."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MIB = 1024**2


class CommandFailedError(RuntimeError):
    """The measured command ended with another status than 0; says what it printed."""


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """What a command cost.

    Attributes:
        wall_seconds: from its start to its end, imports and all.
        cpu_seconds: user and system time of it and of the children that it waited for.
        peak_rss_mebibytes: the most that the tree had resident at one time, pages that its processes share
            counted in each; sampled.
        largest_process_mebibytes: the peak of the largest of its processes.
        stdout: what it printed.
        started_seconds: when it was started, on the monotonic clock.
    """

    wall_seconds: float
    cpu_seconds: float
    peak_rss_mebibytes: float
    largest_process_mebibytes: float
    stdout: str
    started_seconds: float


def run_measured(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> ProcessFigures:
    """Run `command` to its end.

    Raises:
        CommandFailedError: it failed.
    """
    printed, said = cwd / "stdout.txt", cwd / "stderr.txt"
    peak_bytes = 0
    ended = threading.Event()

    def watch(pid: int) -> None:
        nonlocal peak_bytes
        known: set[int] = set()
        while not ended.wait(SAMPLE_SECONDS):
            found = set(_tree(pid))
            # One that has just begun may be a fork that still shows all of its parent's pages as its own.
            peak_bytes = max(peak_bytes, sum(map(_resident_bytes, found & known)))
            known = found

    with printed.open("wb") as stdout, said.open("wb") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=cwd, env=dict(environment)
        )
        watcher = threading.Thread(target=watch, args=(process.pid,), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_seconds = time.monotonic() - started
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = said.read_text(errors="replace")[-4000:]
        raise CommandFailedError(f"{command} ended with {process.returncode}:\n{tail}")
    return ProcessFigures(
        wall_seconds=wall_seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss_mebibytes=peak_bytes / _MIB,
        largest_process_mebibytes=usage.ru_maxrss / 1024,  # of Linux in KiB
        stdout=printed.read_text(errors="replace"),
        started_seconds=started,
    )


def _tree(pid: int) -> list[int]:
    """The process and all below it; those that have ended meanwhile are left out."""
    found = [pid]
    for parent in found:
        try:
            for listing in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, listing.read_text(encoding="ascii").split())
        except OSError:  # the thread, or the process, has ended
            continue
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:  # the process has ended
        return 0


def tree_pss_bytes(pid: int) -> int:
    """Memory of the process and all below it, a page that several share counted once (PSS)."""
    return sum(map(_pss_bytes, _tree(pid)))


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # the process has ended
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
