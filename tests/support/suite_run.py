"""One suite of tests: what it builds, runs and keeps on the disk, and what came of it."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from tests.cluster.host import CACHE
from tests.support.checkout import ROOT
from tests.support.suite_record import RECORDS, Record

GIGABYTE: Final = 1024**3
SPARE_BYTES: Final = 4 * GIGABYTE
"""For what the tests write and remove, and what builds need while they run."""
TEMPORARY_ROOT_VARIABLE: Final = "PYTEST_DEBUG_TEMPROOT"
LEFT_OUT: Final = ("skipped", "xfailed", "xpassed", "deselected")

BEHIND: Final = ("nice", "-n", "10")
"""Before the commands of a suite that is not waited for. The pods of a cluster ask for little and get little
beside processes that don't stand back."""

_printing = threading.Lock()


@dataclass(frozen=True)
class Suite:
    """Commands that are one line of the table."""

    name: str
    level: str
    """The make target that runs it beside others."""
    go_programs: Sequence[str] = ()
    """What the tests need that Go builds; for all suites at once, as they share modules and packages."""
    builds: Sequence[Sequence[str]] = ()
    """What else the tests need; they find it built the next time."""
    programs: Sequence[Sequence[str]] = ()
    """With their own output; one that ends well is one test passed."""
    pytest: Sequence[str] = ()
    """Arguments of pytest."""
    processes: int = 1
    """Of pytest; the tests of a file stay together."""
    caches: Sequence[str] = ()
    """What the builds keep, as patterns under CACHE."""
    disk_bytes: int = 0
    """That the builds take at most, while nothing is built."""
    is_longest: bool = False
    """Of its level: the others leave it the processors, as nothing is done before it is."""

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


@dataclass
class GoBuild:
    """One command that builds several programs, one after another; each is waited for by itself."""

    command: Sequence[str] = ()
    """Says `built NAME` on its standard output after each."""
    programs: Sequence[str] = ()
    """Names of all that it builds."""
    _built: dict[str, Future[bool]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_built(self, programs: Sequence[str], log: IO[str] | None) -> bool:
        """Whether these are there in the end; who asks first starts the command, and has its messages."""
        with self._lock:
            if not self._built:
                self._built = {name: Future() for name in self.programs}
                threading.Thread(target=self._run, args=(log,)).start()
        return all(self._built[name].result() for name in programs)

    def _run(self, log: IO[str] | None) -> None:
        errors = None if log is None else log.fileno()
        try:
            with subprocess.Popen(
                self.command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
            ) as build:
                for line in build.stdout or ():
                    word, _, name = line.strip().partition(" ")
                    if word == "built" and name in self._built:
                        self._built[name].set_result(True)
        except OSError as error:
            _say(f"nothing of Go was built: {error}")
        finally:  # others must not wait for what never comes
            for built in self._built.values():
                if not built.done():
                    built.set_result(False)


@dataclass
class Runner:
    """Runs suites; several threads may call it, and what several suites build is built once."""

    is_alone: bool
    """Whether there is but one suite: its output is printed as it comes, not in one piece at its end."""
    for_pytest: Sequence[str] = ()
    """Arguments of pytest beside the suite's own; with any, the tests run in one process."""
    go_build: GoBuild = field(default_factory=GoBuild)
    """Builds what any of the suites needs of Go."""
    _builds: dict[tuple[str, ...], Future[bool]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, suite: Suite) -> Outcome:
        """Build what the suite needs, then run it."""
        _say(f"=== {suite.name}" + ("" if self.is_alone else f" begins {_clock()}"))
        if self.is_alone:
            return self._run(suite, None)
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            outcome = self._run(suite, log)
            log.seek(0)
            _say(f"=== {suite.name}: {outcome.seconds:.0f} s, ended {_clock()}\n{log.read()}")
        return outcome

    def _run(self, suite: Suite, log: IO[str] | None) -> Outcome:
        outcome, before_it = Outcome(), () if suite.is_longest or self.is_alone else BEHIND
        before, start = suite.built(), time.monotonic()
        if suite.go_programs:
            is_built = self.go_build.is_built(suite.go_programs, log)
            outcome.counts.update({"passed" if is_built else "failed": 1})
        for command in suite.builds:
            is_built = self._is_built((*before_it, *command), log)
            outcome.counts.update({"passed" if is_built else "failed": 1})
        outcome.build_seconds = time.monotonic() - start
        outcome.is_cold = bool(suite.built() - before)
        if not outcome.count("failed"):
            for command in suite.programs:
                failed = _call([*before_it, *command], log)
                outcome.counts.update({"failed" if failed else "passed": 1})
            if suite.pytest:
                outcome.counts.update(self._pytest(suite, before_it, log))
        outcome.seconds = time.monotonic() - start
        outcome.disk_bytes = sum(map(_disk_bytes, suite.built()))
        return outcome

    def _is_built(self, command: tuple[str, ...], log: IO[str] | None) -> bool:
        """Whether the build ends well; the first suite that needs it carries it out, others wait for that."""
        with self._lock:
            is_first = command not in self._builds
            build = self._builds.setdefault(command, Future())
        if is_first:
            try:
                build.set_result(_call(command, log) == 0)
            except OSError as error:  # no such program; others must not wait for it for ever
                build.set_exception(error)
        return build.result()

    def _pytest(self, suite: Suite, before_it: Sequence[str], log: IO[str] | None) -> dict[str, int]:
        processes = suite.processes if not self.for_pytest else 1
        options = ("-n", str(processes), "--dist=loadfile") if processes > 1 else ()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "record.json"
            pytest = [sys.executable, "-m", "pytest", "-q", f"--record={path}", *options, *suite.pytest]
            status = _call([*before_it, *pytest, *self.for_pytest], log, _temporary_root(suite.name))
            record = Record.read(path)
        if record is None or (status != 0 and not record.counts["failed"] + record.counts["error"]):
            return {**(record.counts if record else {}), "error": 1}
        if not self.for_pytest:
            record.write(RECORDS / f"{suite.name}.json")
        return record.counts


def _call(command: Sequence[str], log: IO[str] | None, temporary_root: Path | None = None) -> int:
    errors = None if log is None else subprocess.STDOUT
    given = {} if temporary_root is None else {TEMPORARY_ROOT_VARIABLE: str(temporary_root)}
    return subprocess.run(
        command, cwd=ROOT, stdout=log, stderr=errors, env={**os.environ, **given}, check=False
    ).returncode


def _temporary_root(name: str) -> Path:
    """Where the folders of a suite's tests lie: two of pytest's that end at once delete the same old ones.

    The one that finds them gone fails then, all its tests having passed.
    """
    root = Path(tempfile.gettempdir(), f"ar-{os.getuid()}-{name}")  # short, as paths of sockets have to be
    root.mkdir(exist_ok=True)
    return root


def _say(text: str) -> None:
    with _printing:
        print(text, flush=True)


def _clock() -> str:
    return time.strftime("%H:%M:%S")


def _disk_bytes(path: Path) -> int:
    """What a file or a folder takes; a file of several links counts once."""
    done = subprocess.run(["du", "-sB1", str(path)], stdout=subprocess.PIPE, text=True, check=False)
    return int(done.stdout.split()[0]) if done.stdout else 0
