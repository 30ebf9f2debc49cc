"""Child processes that end with their parent, and take only so much memory and CPU time.

Children parse files of strangers, in native code that may be busy for minutes: the end of their input, or a
thread of their own, would come too late. So the kernel ends them (prctl(2), ``PR_SET_PDEATHSIG``). That can
only be asked for in the child, and code between fork and exec is unsafe where there are threads. Therefore
another program is started (``bound_launcher``), which asks for it and becomes the program that is wanted.

The kernel takes the thread that started a child for its parent: ``start_bound`` has one thread for that,
which lives as long as this process does.
"""

import functools
import os
import queue
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD_MEMORY_BYTES = 1280 * 1024**2
"""Python and the libraries map 400 MiB, what belongs to the frames of an 8K camera some hundred more."""

_LAUNCHER = Path(__file__).with_name("bound_launcher.py")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a child may take; None: as much as its parent."""

    memory_bytes: int | None = None
    """Of address space, what the program itself maps included."""
    cpu_seconds: int | None = None
    """In all. A child that lives on counts by request (``allow_cpu_seconds``)."""
    first_to_go: bool = False
    """Whether the kernel shall kill it before others when memory runs out."""


def bound_command(command: Sequence[str], bounds: Bounds) -> list[str]:
    """The arguments that start ``command`` as a child of this process, under ``bounds``."""
    limits = (bounds.memory_bytes or 0, bounds.cpu_seconds or 0, int(bounds.first_to_go))
    return [sys.executable, "-P", "-S", str(_LAUNCHER), str(os.getpid()), *map(str, limits), *command]


def start_bound(command: Sequence[str], bounds: Bounds, **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    """Start ``command`` under ``bounds``; it dies with this process, not with the thread that calls this.

    ``options`` are those of ``subprocess.Popen``.

    Raises:
        OSError: it can't be started.
    """
    return _starter(os.getpid()).start(bound_command(command, bounds), options)


def allow_memory_bytes(most: int) -> None:
    """Let the calling process map so much memory; what would be more fails (MemoryError)."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
    )


def allow_cpu_seconds(seconds: int) -> None:
    """Let the calling process use ``seconds`` of CPU time from now on; then the kernel ends it (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


class _Starter:
    """A thread that starts processes for all others, and never ends by itself."""

    def __init__(self) -> None:
        self._wanted: queue.SimpleQueue[tuple[Future[subprocess.Popen[bytes]], list[str], dict[str, Any]]] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, command: list[str], options: dict[str, Any]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name="process-starter", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise OSError(str(error)) from error
                self._thread = thread
        started: Future[subprocess.Popen[bytes]] = Future()
        self._wanted.put((started, command, options))
        return started.result()

    def _serve(self) -> None:
        while True:
            started, command, options = self._wanted.get()
            try:
                started.set_result(subprocess.Popen(command, **options))  # noqa: S603  (our callers' own lists)
            except BaseException as error:  # noqa: BLE001  (it is raised where the process was wanted)
                started.set_exception(error)
            del started, command, options


@functools.cache
def _starter(pid: int) -> _Starter:
    """That of the process ``pid``, which is this one: a fork has no thread of its parent's."""
    return _Starter()
