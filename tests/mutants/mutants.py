"""Faults put into the code on purpose, one at a time: the tests must find each of them.

`make mutants` copies the source of the worker, the operator and their API, changes one place in the copy, and
runs the tests that guard it against that copy. A mutant is killed when a test fails; tests that can't even be
collected don't count, and neither do tests that would find the source elsewhere (`copied_source.py`). First
the unchanged copy must pass, else nothing is proved.

Two mutants are at work at a time, in a copy each; those whose tests take longest come first.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from copied_source import COPY_VARIABLE, PACKAGES
from mutant import Mutant
from operator_faults import OPERATOR_MUTANTS
from worker_faults import WORKER_MUTANTS

MUTANTS = (*WORKER_MUTANTS, *OPERATOR_MUTANTS)
ROOT = Path(__file__).parents[2]
AT_ONCE = 2
TESTS_FAILED = 1
"""pytest's exit status: collected, run, and some failed."""
SHOWN_LINES = 20
"""Of the tests that fail without any mutant."""


@dataclass(frozen=True)
class TestRun:
    """What came of one run of pytest."""

    status: int
    seconds: float
    output: str


def copy_source(target: Path) -> Path:
    """Copy every package to `target`, in folders as in the checkout."""
    for package, folder in PACKAGES.items():
        shutil.copytree(
            ROOT / folder / package,
            target / folder / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return target


def run_tests(copy: Path, tests: Sequence[str]) -> TestRun:
    """Run pytest with the packages taken from `copy`."""
    path = os.pathsep.join(str(copy / folder) for folder in PACKAGES.values())
    temporary = copy.with_name(f"{copy.name}-temporary")  # of its own: two that end at once delete the same
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ, "PYTHONPATH": path, COPY_VARIABLE: str(copy), "PYTEST_DEBUG_TEMPROOT": str(temporary),
    }  # fmt: skip
    plugins = ("-p", "no:cacheprovider", "-p", "tests.mutants.copied_source")
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *plugins, *tests],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return TestRun(ended.returncode, time.monotonic() - start, ended.stdout)


def mutated(mutant: Mutant, text: str) -> str:
    """The text of the mutant's module with its fault."""
    found = text.count(mutant.old)
    if found != 1:
        raise SystemExit(
            f"mutant {mutant.name!r}: its place stands {found} times in {mutant.module}, expected once"
        )
    return text.replace(mutant.old, mutant.new)


def write_module(path: Path, text: str) -> None:
    """Write a module, and forget what Python compiled of the former: a second may hold two writes."""
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)


def run_mutant(mutant: Mutant, copy: Path) -> TestRun:
    """Run the mutant's tests with its fault in `copy`, which is as it was afterwards."""
    path = copy / mutant.module
    original = path.read_text(encoding="utf-8")
    write_module(path, mutated(mutant, original))
    try:
        return run_tests(copy, mutant.tests)
    finally:
        write_module(path, original)


class Copies:
    """As many copies as run at a time, each lent to one at a time."""

    def __init__(self, folder: Path) -> None:
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(AT_ONCE):
            self._free.put(copy_source(folder / str(number)))

    def lend(self, use: Callable[[Path], TestRun]) -> TestRun:
        """What `use` makes of a copy."""
        copy = self._free.get()
        try:
            return use(copy)
        finally:
            self._free.put(copy)


def prove_selections(pool: ThreadPoolExecutor, copies: Copies) -> dict[Sequence[str], float]:
    """See that every selection of tests passes without any mutant; the seconds that each takes."""
    selections = list(dict.fromkeys(mutant.tests for mutant in MUTANTS))

    def prove(tests: Sequence[str]) -> TestRun:
        return copies.lend(lambda copy: run_tests(copy, tests))

    seconds = {}
    for tests, run in zip(selections, pool.map(prove, selections), strict=True):
        if run.status != 0:
            pool.shutdown(cancel_futures=True)
            end = "\n".join(run.output.splitlines()[-SHOWN_LINES:])
            raise SystemExit(f"{end}\n{' '.join(tests)} fails without any mutant; mend that first")
        seconds[tests] = run.seconds
    return seconds


def is_killed(mutant: Mutant, copies: Copies) -> bool:
    """Whether the mutant's tests find it; says so."""
    run = copies.lend(lambda copy: run_mutant(mutant, copy))
    killed = run.status == TESTS_FAILED
    verdict = "killed" if killed else f"SURVIVED (pytest exit status {run.status})"
    print(f"{verdict:8}  {mutant.name}  ({run.seconds:.0f} s)", flush=True)
    return killed


def main() -> int:
    """0 if every mutant is killed; with ``--places``, if the place of each is where it is said to be."""
    for mutant in MUTANTS:
        mutated(mutant, (ROOT / mutant.module).read_text(encoding="utf-8"))
    if sys.argv[1:] == ["--places"]:
        return 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        copies = Copies(Path(folder))
        seconds = prove_selections(pool, copies)
        longest_first = sorted(MUTANTS, key=lambda mutant: seconds[mutant.tests], reverse=True)
        killed = sum(pool.map(lambda mutant: is_killed(mutant, copies), longest_first))
    print(f"{killed} of {len(MUTANTS)} mutants killed")
    return 0 if killed == len(MUTANTS) else 1


if __name__ == "__main__":
    sys.exit(main())
