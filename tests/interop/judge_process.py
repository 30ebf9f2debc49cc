"""Runs LeRobot's environment from the project's own: makes it, and starts the judge in it."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD_TIMEOUT_SECONDS = 1800  # 3 GB of packages over a slow line
JUDGE_TIMEOUT_SECONDS = 300


class JudgeError(RuntimeError):
    """LeRobot's environment cannot be made, or the judge ended without a verdict; says what it printed."""


def make_environment() -> Path:
    """Make LeRobot's environment where it does not exist; returns its python.

    Raises:
        JudgeError: it cannot be made; the text says what is missing.
    """
    done = _run([str(HERE / "environment.sh")], BUILD_TIMEOUT_SECONDS)
    if done.returncode != 0:
        raise JudgeError(f"LeRobot's environment cannot be made:\n{done.stderr[-4000:]}")
    return Path(done.stdout.strip().splitlines()[-1])


def run_judge(
    python: Path, datasets: Mapping[str, Path], report_path: Path, options: Sequence[str] = ()
) -> Mapping[str, Any]:
    """Judge datasets in one process; returns the verdicts of judge.py by the names given here.

    Raises:
        JudgeError: no report was written, or the exit status does not agree with it.
    """
    folders = [str(folder) for folder in datasets.values()]
    command = [str(python), str(HERE / "judge.py"), *folders, "--report", str(report_path), *options]
    done = _run(command, JUDGE_TIMEOUT_SECONDS)
    if not report_path.exists():
        raise JudgeError(f"the judge wrote no report, exit status {done.returncode}:\n{done.stderr[-4000:]}")
    report = json.loads(report_path.read_text(encoding="utf-8"))
    expected_status = int(any(verdict["errors"] for verdict in report.values()))
    if done.returncode != expected_status:
        raise JudgeError(
            f"the judge ended with {done.returncode}, its report asks for {expected_status}:\n"
            f"{done.stderr[-4000:]}"
        )
    return {name: report[str(folder)] for name, folder in datasets.items()}


def _run(command: list[str], timeout_seconds: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_seconds)
