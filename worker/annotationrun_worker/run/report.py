"""What a run did, as values: for the terminal now, for status and reports later."""

from dataclasses import dataclass, field

from annotationrun_worker.annotate.context import Hole
from annotationrun_worker.dataset.records import EpisodeIndex


@dataclass(frozen=True, slots=True)
class EpisodeFailure:
    """A module that made nothing of an episode."""

    episode: EpisodeIndex
    module: str
    """``task`` is the derived task; ``*`` the episode as a whole."""
    cause: str
    attempts: int = 1


@dataclass(slots=True)
class AnnotateReport:
    """Counts of the annotate step; results are per episode and module."""

    results_made: int = 0
    results_reused: int = 0
    failures: list[EpisodeFailure] = field(default_factory=list)
    holes: list[tuple[EpisodeIndex, Hole]] = field(default_factory=list)
    """Questions without a usable answer in episodes that succeeded."""
    speech_only: list[EpisodeIndex] = field(default_factory=list)
    """Episodes without subtasks: the module interjections made their first speech alone."""
    warnings: list[str] = field(default_factory=list)
    """What is doubtful of the run as a whole, and went on all the same."""


SHOWN_FAILURES = 20
"""Failures that an error's text names; more are counted."""


def _tried(failure: EpisodeFailure) -> str:
    return f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""


def failure_text(failures: list[EpisodeFailure], episodes: int) -> str:
    """Which episodes failed, and why."""
    lines = [
        f"  episode {failure.episode}, {failure.module}{_tried(failure)}: {failure.cause}"
        for failure in failures[:SHOWN_FAILURES]
    ]
    more = len(failures) - SHOWN_FAILURES
    if more > 0:
        lines.append(f"  and {more} more")
    failed = len({failure.episode for failure in failures})
    return "\n".join(
        [
            f"{failed} of {episodes} episodes failed; nothing was written to the output, what succeeded is "
            "staged, and a rerun asks only for the rest:",
            *lines,
        ]
    )
