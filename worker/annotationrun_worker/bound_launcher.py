"""Becomes another program, which ends with its parent and takes only so much memory and CPU time.

Arguments: process id of the parent, bytes of address space, seconds of CPU time (0: no limit), 1 or 0 for
whether to be the first to go when memory runs out, and the command. It is run by its path, and loads nothing
but what it needs: it stands before each decoder.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence

FIRST_TO_GO = 900
"""Of 1000 (proc(5), ``oom_score_adj``): out of memory, the kernel kills such a child, and not the worker."""

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_FILE = "/proc/self/oom_score_adj"
_UNKNOWN_PROGRAM = 127


def _become(arguments: Sequence[str]) -> None:
    parent_pid, memory_bytes, cpu_seconds, first_to_go = map(int, arguments[:4])
    command = list(arguments[4:])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        return  # it died before it could be asked for
    for kind, most in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CPU, cpu_seconds)):
        _, hard = resource.getrlimit(kind)
        if most:
            bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (bound, bound))
    if first_to_go:
        _go_first()
    try:
        os.execvp(command[0], command)  # noqa: S606  (our callers' own lists)
    except OSError as error:
        sys.stderr.write(f"{command[0]} can't be started: {error.strerror}\n")
        sys.exit(_UNKNOWN_PROGRAM)


def _go_first() -> None:
    try:
        with open(_OOM_SCORE_FILE, "r+", encoding="ascii") as file:  # noqa: PTH123  (pathlib takes long to load)
            if int(file.read()) < FIRST_TO_GO:  # less than what was inherited only root may ask for
                file.seek(0)
                file.write(str(FIRST_TO_GO))
    except OSError:
        return  # a /proc that is read-only: then all are alike


if __name__ == "__main__":
    _become(sys.argv[1:])
