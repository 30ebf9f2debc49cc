"""What every kind of damage is met with: a process of its own, limits, and what became of each case."""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.forked_command import start_forked

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.command_line import build_app

COUNT = int(os.environ.get("FUZZ_COUNT", "50"))
"""Of each kind, the same ones each time; more for who has the time: FUZZ_COUNT=2000 make fuzz."""
FIRST_SEED = 16_000
MOST_SECONDS = 10
"""Of processor time, for a case; beside other suites it may get little of it a second."""
HANG_SECONDS = 60
"""After which a case counts as one that never ends."""
MOST_BYTES = 1536 * 1024**2
"""Of the process and the largest of its children together."""
DOCUMENTED = frozenset(map(int, ExitCode)) - {ExitCode.FAILED}
"""``FAILED`` would be a defect of ours."""

Case = tuple[int, str, int | None, str, float]
"""Seed, what was done, exit code (``None``: an exception came out), what was said, seconds."""
Cases = Callable[[Path], Iterator[Case]]


@dataclass(frozen=True)
class Met:
    """How a kind of damage was met."""

    cases: list[Case]
    peak_bytes: int
    seconds: float

    @property
    def bad(self) -> list[Case]:
        return [case for case in self.cases if case[2] not in DOCUMENTED or "Traceback" in case[3]]


class TooLongError(BaseException):
    """A case took too long; nothing in it takes this for an error of its own."""


def meet(cases: Cases, folder: Path) -> Met:
    """All cases, in a process of their own."""
    report, start = folder / "report.json", time.monotonic()
    process = start_forked(_meet, cases, folder, report)
    process.join(COUNT * HANG_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == 0
    told = json.loads(report.read_bytes())
    return Met([tuple(case) for case in told["cases"]], told["peak_bytes"], time.monotonic() - start)


def _meet(cases: Cases, folder: Path, report: Path) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    signal.signal(signal.SIGALRM, _too_long)
    found = list(cases(folder))
    users = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak_bytes = sum(resource.getrusage(user).ru_maxrss for user in users) * 1024
    report.write_text(json.dumps({"cases": found, "peak_bytes": peak_bytes}), encoding="utf-8")


def _processor_seconds() -> float:
    """What this process has used, and those of its children that it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _too_long(number: int, frame: object) -> None:
    raise TooLongError(f"no end after {HANG_SECONDS} s")


def seeds() -> range:
    """Of the cases of a kind."""
    return range(FIRST_SEED, FIRST_SEED + COUNT)


def command_here(seed: int, done: str, command: list[str]) -> Case:
    """`annotationrun COMMAND` in this process."""
    sys.argv[1:] = command
    return case(seed, f"{command[0]}: {done}", lambda: build_app(command)())


def case(seed: int, done: str, meeting: Callable[[], Any]) -> Case:
    """What became of `meeting`, which ends as a command does: by returning, or by SystemExit."""
    said, start = io.StringIO(), _processor_seconds()
    code: int | None = 0
    signal.alarm(HANG_SECONDS)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            meeting()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except (Exception, KeyboardInterrupt, TooLongError):  # noqa: BLE001  (whatever it is, it should not have come out)
        code = None
        said.write(traceback.format_exc())
    finally:
        signal.alarm(0)
    return seed, done, code, said.getvalue(), _processor_seconds() - start
