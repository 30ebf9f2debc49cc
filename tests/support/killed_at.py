"""Runs the command line, and kills its own process group at a fault point: POINT, HIT (from 1), arguments."""

import os
import signal
import sys

from annotationrun_worker import fault_points
from annotationrun_worker.command_line import build_app
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


if __name__ == "__main__":
    kill_at(FaultPoint[sys.argv[1]], int(sys.argv[2]))
    build_app(sys.argv[3:])(sys.argv[3:])
