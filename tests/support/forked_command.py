"""`annotationrun` in processes forked from one that has loaded all it needs; they may kill themselves.

Dozens of them are started, and loading takes more CPU time than a small run. All have the seed of hashes of
the one that they are forked from: compare with a run that has another, so that no order of a set shows.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.killed_at import kill_at

from annotationrun_worker.__main__ import main
from annotationrun_worker.fault_points import FaultPoint

Place = tuple[FaultPoint, int]
"""A fault point, and at which time of reaching it, counted from 1."""
COMMANDS = ("run", "plan", "annotate", "merge", "validate", "show", "drop", "gc")
"""None of them loads torch or the Hub's client."""
LOADED = (
    "tests.support.forked_command",
    "tests.support.killed_merge",
    "annotationrun_worker.vlm.client",
    *(f"annotationrun_worker.commands.{name}" for name in COMMANDS),
)
TIMEOUT_SECONDS = 300.0


class ForkedCommand:
    """`annotationrun ARGUMENTS` under way, in a session of its own."""

    def __init__(
        self, *arguments: object, place: Place | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it here, with `environment` beside this one's; at `place` it kills its process group."""
        self._arguments = list(map(str, arguments))
        self._folder = tempfile.TemporaryDirectory()
        self._printed = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        self._process = start_forked(
            _run, Path.cwd(), {**os.environ, **(environment or {})}, self._arguments, self._printed, place
        )

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
        return self._process.pid

    def wait(self) -> subprocess.CompletedProcess[str]:
        """What came of it."""
        self._process.join(TIMEOUT_SECONDS)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            self._process.join()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in self._printed)
        self._folder.cleanup()
        assert code is not None, f"{self._arguments} goes on and on: {stdout}{stderr}"
        return subprocess.CompletedProcess(self._arguments, code, stdout, stderr)


def start_forked(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    """A process that calls `target`, forked from the one that has loaded all; under way."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LOADED))
    process: ForkServerProcess = context.Process(target=target, args=arguments)
    process.start()
    return process


def forked_command(
    *arguments: object, place: Place | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`annotationrun ARGUMENTS` from its start to its end; at `place` it kills its process group."""
    return ForkedCommand(*arguments, place=place, environment=environment).wait()


def _run(
    folder: Path,
    environment: dict[str, str],
    arguments: list[str],
    printed: list[Path],
    place: Place | None,
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((1, 2), printed, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    sys.argv[1:] = arguments
    if place is not None:
        kill_at(*place)
    main()
