"""What the validator says."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
"""``error``: breaks the contract; ``warning``: loads and trains, but is hardly meant."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that does not hold, and where."""

    rule: str
    """Short name of the rule, such as ``vqa-pair``."""
    message: str
    severity: Severity = "error"
    episode: int | None = None
    """``None``: it concerns a file or the whole dataset."""
    frame: int | None = None
    """0-based in the episode."""
    timestamp_seconds: float | None = None
    style: str | None = None
    """Of the row; ``speech`` for the rows without style; ``None``: it concerns no single style."""

    def __str__(self) -> str:
        where = [
            None if self.episode is None else f"episode {self.episode}",
            None if self.frame is None else f"frame {self.frame}",
            None if self.timestamp_seconds is None else f"{self.timestamp_seconds:.3f} s",
            self.style,
        ]
        place = ", ".join(part for part in where if part)
        return f"{self.severity} [{self.rule}]{f' {place}' if place else ''}: {self.message}"
