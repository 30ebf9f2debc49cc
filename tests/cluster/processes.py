"""Processes that outlive the command that started them, and are stopped by their own pid.

Each is noted in a file before the next one is started: its pid, and when it began, since pids are used again.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

STOPS_WITHIN_SECONDS = 30.0
POLL_SECONDS = 0.2
LOG_END_CHARACTERS = 3000


class ProcessError(RuntimeError):
    """A process ended by itself, or what was waited for did not come."""


@dataclass(frozen=True)
class StartedProcess:
    """A process as it is noted; ``start_ticks`` is field 22 of /proc/PID/stat."""

    name: str
    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        return _start_ticks(self.pid) == self.start_ticks

    def stop(self, within_seconds: float = STOPS_WITHIN_SECONDS) -> None:
        """End it with SIGTERM, then SIGKILL, and wait until it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            for number, seconds in ((signal.SIGTERM, within_seconds), (signal.SIGKILL, 60.0)):
                if not self.is_alive():  # asked after the descriptor was opened, so it names this process
                    break
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                waiting = select.poll()
                waiting.register(descriptor, select.POLLIN)
                if waiting.poll(seconds * 1000):
                    break
        finally:
            os.close(descriptor)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)


@dataclass
class Processes:
    """The processes of one cluster: a note of them in ``folder``, and a log of each."""

    folder: Path
    started: list[StartedProcess] = field(default_factory=list)

    @property
    def note(self) -> Path:
        return self.folder / "processes.json"

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        """Start a program in a session of its own; its output goes into ``name``.log."""
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # Ours until it is waited for, so its entry in /proc is there even if it has ended.
        self.started.append(StartedProcess(name, process.pid, _start_ticks(process.pid, ended_too=True) or 0))
        process.returncode = 0  # Popen need not warn: it is stopped, and waited for, through the note
        self.note.write_text(json.dumps([asdict(entry) for entry in self.started]), encoding="utf-8")

    def wait_until(self, what: str, holds: Callable[[], bool], within_seconds: float) -> None:
        """Wait until ``holds()``.

        Raises:
            ProcessError: a process ended meanwhile, or it took too long; with the end of the logs.
        """
        deadline = time.monotonic() + within_seconds
        while not holds():
            ended = [process.name for process in self.started if not process.is_alive()]
            if ended:
                raise ProcessError(
                    f"waiting for {what}: {', '.join(ended)} ended by itself\n{self.log_ends(ended)}"
                )
            if time.monotonic() > deadline:
                names = [process.name for process in self.started]
                raise ProcessError(f"{what} took longer than {within_seconds:.0f} s\n{self.log_ends(names)}")
            time.sleep(POLL_SECONDS)

    def log_ends(self, names: Sequence[str]) -> str:
        """The ends of the logs of these processes."""
        ends = {name: self._log(name).read_text(errors="replace")[-LOG_END_CHARACTERS:] for name in names}
        return "\n".join(f"--- {self._log(name)}\n{end}" for name, end in ends.items())

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def stop(self, name: str) -> None:
        """Stop one process by its name, if it was started."""
        for process in [process for process in self.started if process.name == name]:
            process.stop()
            self.started.remove(process)

    def forget_ended(self) -> None:
        """Expect no more of processes that have ended."""
        self.started[:] = [process for process in self.started if process.is_alive()]

    def stop_all(self) -> None:
        """Stop all, the latest first."""
        for process in reversed(self.started):
            process.stop()
        self.started.clear()


def noted_processes(folder: Path) -> Processes:
    """What an earlier command started and noted in ``folder``."""
    processes = Processes(folder)
    if processes.note.exists():
        entries = json.loads(processes.note.read_text(encoding="utf-8"))
        processes.started.extend(StartedProcess(**entry) for entry in entries)
    return processes


def _start_ticks(pid: int, *, ended_too: bool = False) -> int | None:
    """When a process began, in clock ticks after boot; None if there is none (or it has ended)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return None if state in "ZX" and not ended_too else int(fields[18])
