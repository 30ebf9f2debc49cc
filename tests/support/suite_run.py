"""One suite of `make test`: what it builds, runs, keeps on the disk, and what came of it."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from tests.cluster.host import CACHE
from tests.support.checkout import ROOT

GIGABYTE: Final = 1024**3
SPARE_BYTES: Final = 2 * GIGABYTE
"""For the tests' own files, whatever is built."""
LEFT_OUT: Final = ("skipped", "xfailed", "xpassed", "deselected")

_printing = threading.Lock()


@dataclass(frozen=True)
class Suite:
    """Commands that are one line of the table."""

    name: str
    builds: Sequence[Sequence[str]] = ()
    """What the tests need; they find it built the next time."""
    programs: Sequence[Sequence[str]] = ()
    """With their own output; one that ends well is one test passed."""
    pytest: Sequence[str] = ()
    """Arguments of pytest."""
    lane: str = "main"
    """Suites of a lane run in turn."""
    caches: Sequence[str] = ()
    """What the builds keep, as patterns under CACHE."""
    disk_bytes: int = 0
    """That the builds take at most, while nothing is built."""

    def built(self) -> frozenset[Path]:
        """What there is of the caches."""
        return frozenset(path for pattern in self.caches for path in CACHE.glob(pattern))

    @property
    def is_cold(self) -> bool:
        """Whether a cache is missing as a whole."""
        return any(not any(CACHE.glob(pattern)) for pattern in self.caches)


@dataclass
class Outcome:
    """What came of a suite; a program or a build that ends well is one test passed."""

    seconds: float = 0.0
    build_seconds: float = 0.0
    """Of `seconds`."""
    is_cold: bool = False
    """Whether something was built that is kept."""
    disk_bytes: int = 0
    """That the suite's caches take."""
    counts: Counter[str] = field(default_factory=Counter)

    def count(self, *names: str) -> int:
        """Tests that ended so."""
        return sum(self.counts[name] for name in names)

    @classmethod
    def sum(cls, outcomes: Iterable["Outcome"]) -> "Outcome":
        """The counts of all."""
        total = cls()
        for outcome in outcomes:
            total.counts.update(outcome.counts)
        return total


def missing_disk_bytes(suites: Sequence[Suite]) -> int:
    """How much the disk lacks for what these suites would build now; 0 if it suffices."""
    CACHE.mkdir(parents=True, exist_ok=True)
    needed = SPARE_BYTES + sum(suite.disk_bytes for suite in suites if suite.is_cold)
    return max(0, needed - shutil.disk_usage(CACHE).free)


def run_suite(suite: Suite, is_alone: bool) -> Outcome:
    """Run it; its output is printed as it comes if it is `is_alone`, else in one piece at its end."""
    _say(f"=== {suite.name}" + ("" if is_alone else f" begins {_clock()}"))
    if is_alone:
        return _run(suite, None)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        outcome = _run(suite, log)
        log.seek(0)
        _say(f"=== {suite.name}: {outcome.seconds:.0f} s, ended {_clock()}\n{log.read()}")
    return outcome


def _run(suite: Suite, log: IO[str] | None) -> Outcome:
    outcome = Outcome()
    before, start = suite.built(), time.monotonic()
    for command in suite.builds:
        outcome.counts.update({"failed" if _call(command, log) else "passed": 1})
    outcome.build_seconds = time.monotonic() - start
    outcome.is_cold = bool(suite.built() - before)
    if not outcome.count("failed"):
        for command in suite.programs:
            outcome.counts.update({"failed" if _call(command, log) else "passed": 1})
        if suite.pytest:
            outcome.counts.update(_pytest(suite.pytest, log))
    outcome.seconds = time.monotonic() - start
    outcome.disk_bytes = sum(map(_disk_bytes, suite.built()))
    return outcome


def _pytest(arguments: Sequence[str], log: IO[str] | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.json"
        status = _call([sys.executable, "-m", "pytest", "-q", "--counts", str(path), *arguments], log)
        counts: dict[str, int] = json.loads(path.read_text()) if path.exists() else {"error": 1}
    if status != 0 and not counts.get("failed", 0) + counts.get("error", 0):
        counts["error"] = 1
    return counts


def _call(command: Sequence[str], log: IO[str] | None) -> int:
    errors = None if log is None else subprocess.STDOUT
    return subprocess.run(command, cwd=ROOT, stdout=log, stderr=errors, check=False).returncode


def _say(text: str) -> None:
    with _printing:
        print(text, flush=True)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _disk_bytes(path: Path) -> int:
    """What a file or a folder takes; a file of several links counts once."""
    done = subprocess.run(["du", "-sB1", str(path)], stdout=subprocess.PIPE, text=True, check=False)
    return int(done.stdout.split()[0]) if done.stdout else 0
