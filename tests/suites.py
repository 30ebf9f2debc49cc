"""`make test`: every suite in turn, then a table of what passed and how long it took.

A skipped, deselected or expectedly failing test counts as a failure: nothing is left out in silence.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
LEFT_OUT = ("skipped", "xfailed", "xpassed", "deselected")


@dataclass(frozen=True)
class Suite:
    """Commands that are one line of the table; pytest's arguments, or programs with their own output."""

    name: str
    pytest: Sequence[str] = ()
    programs: Sequence[Sequence[str]] = ()
    is_in_all: bool = True
    """Run when no suite is named."""


SUITES = (
    Suite(
        "lint",
        programs=(
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "lint-imports"),),
        ),
    ),
    Suite("types", programs=((str(BIN / "mypy"),),)),
    Suite("unit", pytest=("tests/unit", "tests/architecture")),
    Suite("component", programs=(("tests/support/versitygw.sh",),), pytest=("tests/component",)),
    Suite("faults", programs=(("tests/support/versitygw.sh",),), pytest=("tests/faults",)),
    Suite("scale", pytest=("tests/scale",)),
    Suite("frames-exact", programs=((sys.executable, "-m", "tests.component.frames_exact"),)),
    Suite("mutants", programs=((sys.executable, "tests/mutants/mutants.py"),)),
    Suite("interop", programs=(("tests/interop/environment.sh",),), pytest=("tests/interop",)),
    Suite("chart", programs=(("tests/support/helm.sh",),), pytest=("tests/chart",)),
    Suite(
        "operator",
        programs=(("tests/cluster/programs/build.sh",),),
        pytest=("tests/operator",),
        is_in_all=False,
    ),
    Suite(
        "cluster",
        programs=((sys.executable, "-m", "tests.cluster", "build"), ("tests/support/helm.sh",)),
        pytest=("tests/cluster",),
        is_in_all=False,
    ),
    Suite("docs", pytest=("tests/docs",)),
)


@dataclass
class Outcome:
    """What came of a suite; a program that ends well is one test passed."""

    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, counts: dict[str, int]) -> None:
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def count(self, *names: str) -> int:
        return sum(self.counts.get(name, 0) for name in names)


def run_suite(suite: Suite) -> Outcome:
    outcome = Outcome()
    start = time.monotonic()
    for command in suite.programs:
        done = subprocess.run(command, cwd=ROOT, check=False)
        outcome.add({"failed" if done.returncode else "passed": 1})
    if suite.pytest:
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts.json"
            command = [sys.executable, "-m", "pytest", "-q", "--counts", str(counts), *suite.pytest]
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            outcome.add(json.loads(counts.read_text()) if counts.exists() else {"error": 1})
            if status != 0 and not outcome.count("failed", "error"):
                outcome.add({"error": 1})
    outcome.seconds = time.monotonic() - start
    return outcome


def main(names: Sequence[str]) -> int:
    """Run the suites `names`, or all that are run together; 0 if all passed and nothing was left out."""
    chosen = [suite for suite in SUITES if (suite.name in names if names else suite.is_in_all)]
    if names and len(chosen) != len(set(names)):
        sys.stderr.write(f"unknown suite in {list(names)}; there are {[suite.name for suite in SUITES]}\n")
        return 2
    os.environ["PYTHONUNBUFFERED"] = "1"
    outcomes = {}
    for suite in chosen:
        print(f"=== {suite.name}", flush=True)
        outcomes[suite.name] = run_suite(suite)
    header = ("suite", "passed", "failed", *LEFT_OUT, "seconds")
    print("\n" + "".join(f"{title:>12}" for title in header))
    for name, outcome in outcomes.items():
        cells = (outcome.count("passed"), outcome.count("failed", "error"), *map(outcome.count, LEFT_OUT))
        print(f"{name:>12}" + "".join(f"{cell:>12}" for cell in cells) + f"{outcome.seconds:>12.0f}")
    total = Outcome()
    for outcome in outcomes.values():
        total.add(outcome.counts)
    failed, left_out = total.count("failed", "error"), total.count(*LEFT_OUT)
    print(f"{'all':>12}" + " " * 72 + f"{sum(outcome.seconds for outcome in outcomes.values()):>12.0f}")
    print(", ".join(f"{total.count(name)} {name}" for name in LEFT_OUT))
    print(f"{total.count('passed')} passed, {failed} failed", flush=True)
    return 1 if failed or left_out or not total.count("passed") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
