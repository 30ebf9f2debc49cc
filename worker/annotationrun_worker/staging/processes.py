"""Which process on which machine: enough to see that a process of this machine is gone.

From Linux's ``/proc``, as proc(5) describes it. Two processes that share boot id and process id namespace see
the same process ids; a process id is used again only with another start time.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ENDED: Final = frozenset("ZXx")
"""States of a process that has ended: a zombie waits for its parent only."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process, told apart from every other one that ever was."""

    host_name: str
    boot_id: str
    """Of the kernel, random at each start."""
    pid_namespace: int
    """Inode number."""
    pid: int
    start_ticks: int
    """When it started, in clock ticks since the kernel did."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What ``/proc/<pid>/stat`` says of a process."""

    state: str
    """One letter: R running, S sleeping, T stopped, Z zombie, ..."""
    start_ticks: int


def parse_stat(text: str) -> ProcessState:
    """Read ``/proc/<pid>/stat``: fields 3 (state) and 22 (start time).

    Field 2 is the program's name in parentheses, and may hold spaces and parentheses.
    """
    fields = text.rpartition(")")[2].split()
    return ProcessState(fields[0], int(fields[19]))


def read_process(pid: int) -> ProcessState | None:
    """The state of process ``pid`` as seen from here; ``None`` if there is none."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
    return ProcessIdentity(
        host_name=socket.gethostname(),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
        pid=os.getpid(),
        start_ticks=parse_stat(stat).start_ticks,
    )


def can_see(here: ProcessIdentity, other: ProcessIdentity) -> bool:
    """Whether ``here`` would see ``other`` under its process id if it ran."""
    return (here.boot_id, here.pid_namespace) == (other.boot_id, other.pid_namespace)


def has_ended(process: ProcessIdentity, seen: ProcessState | None) -> bool:
    """Whether ``process`` is gone, with what is ``seen`` under its process id now."""
    return seen is None or seen.state in _ENDED or seen.start_ticks != process.start_ticks
