"""A merge in a process of its own that kills itself at a fault point."""

import os
import signal
from pathlib import Path

from tests.support.forked_command import TIMEOUT_SECONDS, start_forked
from tests.support.killed_at import kill_at
from tests.support.staged_results import merge_plan, staged_results

from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.output.merge import merge_to_folder
from annotationrun_worker.output.place import check_output


def merge_killed_at(point: FaultPoint, hit: int, source: Path, output: Path, annotated: Path) -> None:
    """Run the merge until it has reached ``point`` for the ``hit``-th time; it must be killed there."""
    process = start_forked(_merge, point, hit, source, output, annotated)
    process.join(TIMEOUT_SECONDS)
    code = process.exitcode
    process.kill()
    process.join()
    assert code == -signal.SIGKILL, f"never killed at {point.name} {hit}, exit code {code}"


def _merge(point: FaultPoint, hit: int, source: Path, output: Path, annotated: Path) -> None:
    results = staged_results(annotated)
    os.setsid()  # its group is killed
    kill_at(point, hit)
    check_output(source, output, overwrite=True)
    merge_to_folder(merge_plan(source, output, results, overwrite=True))
