"""Operators that kill themselves at a fault point: forked from one process that has loaded all it needs.

Dozens of them are started, and loading takes a second or two of CPU time.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.operator_process import operator_environment

from annotationrun_operator.__main__ import main
from annotationrun_operator.cluster import fault_points
from annotationrun_operator.cluster.fault_points import FaultPoint

Place = tuple[FaultPoint, int]
"""A fault point, and the how manieth time that it is reached, from 1."""


@contextmanager
def forked_operator(
    log_path: Path, kubeconfig: Path, namespace: str, place: Place | None
) -> Iterator[ForkServerProcess]:
    """An operator that serves one namespace, until it kills itself; without a place it does not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    environment = operator_environment(kubeconfig, namespace)
    process = context.Process(target=_run, args=(environment, log_path, place))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run(environment: dict[str, str], log_path: Path, place: Place | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    if place is not None:
        _kill_at(*place)
    sys.exit(main())


def _kill_at(point: FaultPoint, hit: int) -> None:
    """SIGKILL: nothing is cleaned up."""
    hits = 0

    def listen(reached: FaultPoint) -> None:
        nonlocal hits
        hits += reached is point
        if hits == hit:
            os.kill(os.getpid(), signal.SIGKILL)

    fault_points.listener = listen
