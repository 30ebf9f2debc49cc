"""What pytest tells of a session: how many tests ended how, and the seconds of each, for `make durations`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tests.cluster.host import CACHE

RECORDS: Final = CACHE / "suite-records"
"""A file for each suite: the last session that ran all of it."""
COUNTED: Final = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "deselected")


@dataclass(frozen=True)
class Record:
    """One session of pytest."""

    counts: Mapping[str, int]
    """By the names of COUNTED."""
    seconds: Mapping[str, Mapping[str, float]]
    """By a test's ID, then by "setup", "call" and "teardown"; fixtures count where they are first used."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record in the file, or None if there is none, or it can't be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Keep it in the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(vars(self)), encoding="utf-8")
