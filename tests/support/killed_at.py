"""Has a process of the worker kill its own process group at a fault point."""

import os
import signal

from annotationrun_worker import fault_points
from annotationrun_worker.fault_points import FaultPoint


def kill_at(point: FaultPoint, hit: int) -> None:
    """Kill this process's group when it is at `point` for the `hit`-th time."""
    hits = 0

    def listen(reached: FaultPoint) -> None:
        nonlocal hits
        hits += reached is point
        if hits == hit:
            os.killpg(0, signal.SIGKILL)

    fault_points.listener = listen
