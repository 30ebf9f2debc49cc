"""What an attack cost the process that was attacked: seconds, and the most memory that it had (Linux)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TITLE = "attacks"
"""Of the table that the rows of all attacks stand in."""


@dataclass
class Cost:
    """Known at the end of the context that measures it."""

    seconds: float = 0.0
    peak_mebibytes: float = 0.0
    """Resident in this process at one time."""
    more_mebibytes: float = 0.0
    """Of these, what was not resident before."""


@contextmanager
def measured() -> Iterator[Cost]:
    """Measures what is done within it, by this process alone."""
    cost = Cost()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, started = _peak_mebibytes(), time.monotonic()
    try:
        yield cost
    finally:
        cost.seconds = time.monotonic() - started
        cost.peak_mebibytes = _peak_mebibytes()
        cost.more_mebibytes = cost.peak_mebibytes - before


def row(printed: Callable[[str, str], None], attack: str, outcome: str, cost: Cost) -> None:
    """A line of the table: attack, exit code or condition, peak memory, seconds."""
    printed(f"{attack:<66} {outcome:<30} {cost.peak_mebibytes:6.0f} MiB {cost.seconds:6.1f} s", TITLE)


def _peak_mebibytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
