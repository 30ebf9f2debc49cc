"""A merge in a process of its own that kills itself at a fault point, as the program and as a call of it.

``python -m tests.support.killed_merge POINT HIT SOURCE OUTPUT ANNOTATED`` merges the rows of ``ANNOTATED``.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.staged_results import merge_plan, staged_results

from annotationrun_worker import fault_points
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.merge.folder import merge_to_folder
from annotationrun_worker.merge.output_place import check_output


def merge_killed_at(point: FaultPoint, hit: int, source: Path, output: Path, annotated: Path) -> None:
    """Run the merge until it has reached ``point`` for the ``hit``-th time; it must be killed there."""
    arguments = [point.name, str(hit), str(source), str(output), str(annotated)]
    command = [sys.executable, "-m", "tests.support.killed_merge", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, f"never killed at {point.name} {hit}: {done.stderr[-2000:]}"


def main(point: str, hit: str, source: str, output: str, annotated: str) -> None:
    """The program."""
    left = int(hit)

    def kill(reached: FaultPoint) -> None:
        nonlocal left
        left -= reached == FaultPoint[point]
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    results = staged_results(Path(annotated))
    fault_points.listener = kill
    check_output(Path(source), Path(output), overwrite=True)
    merge_to_folder(merge_plan(Path(source), Path(output), results, overwrite=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
