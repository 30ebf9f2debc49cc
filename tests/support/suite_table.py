"""The table of `make test`: counts, disk, and seconds with all built anew (cold) or found (warm).

A run shows one of the two; the other, in brackets, is that of the last run that was so on this machine.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from tests.cluster.host import CACHE
from tests.support.suite_run import GIGABYTE, LEFT_OUT, Outcome, Suite

_FILE: Final = CACHE / "suite-seconds.json"
_TITLES: Final = ("passed", "failed", *LEFT_OUT, "build s", "cold s", "warm s", "disk GB")


@dataclass
class Times:
    """Seconds by suite, then by "cold" or "warm"; kept from run to run."""

    seconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls) -> Self:
        """What was kept; nothing if there is none, or it can't be read."""
        try:
            return cls(json.loads(_FILE.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return cls()

    def write(self) -> None:
        """Keep them."""
        _FILE.write_text(json.dumps(self.seconds, indent=1), encoding="utf-8")


def table(outcomes: Sequence[tuple[Suite, Outcome]], times: Times) -> str:
    """A line for each suite; `times` is brought up to date and kept."""
    lines = ["", _line("suite", _TITLES)]
    for suite, outcome in outcomes:
        known = times.seconds.setdefault(suite.name, {})
        known["cold" if outcome.is_cold else "warm"] = outcome.seconds
        counts = (outcome.count("passed"), outcome.count("failed", "error"), *map(outcome.count, LEFT_OUT))
        cells = [str(count) for count in counts] + [f"{outcome.build_seconds:.0f}"]
        for kind, is_this in (("cold", outcome.is_cold), ("warm", not outcome.is_cold)):
            figure = f"{known[kind]:.0f}" if kind in known else "-"
            cells.append(figure if is_this else f"({figure})")
        lines.append(_line(suite.name, [*cells, f"{outcome.disk_bytes / GIGABYTE:.1f}"]))
    times.write()
    return "\n".join([*lines, ""])


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:>12}" + "".join(f"{cell:>11}" for cell in cells)
