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

    episodes_done: int = 0
    """With all their results, or failed."""
    results_made: int = 0
    results_reused: int = 0
    failures: list[EpisodeFailure] = field(default_factory=list)
    holes: list[tuple[EpisodeIndex, Hole]] = field(default_factory=list)
    """Questions without a usable answer in episodes that succeeded."""
    speech_only: list[EpisodeIndex] = field(default_factory=list)
    """Episodes without subtasks: the module interjections made their first speech alone."""
    warnings: list[str] = field(default_factory=list)
    """What is doubtful of the run as a whole, and went on all the same."""

    @property
    def failed_episodes(self) -> list[EpisodeIndex]:
        """Those with a failure, in order."""
        return sorted({failure.episode for failure in self.failures})


SHOWN_FAILURES = 20
"""Failures that an error's text names; more are counted."""


def describe_failure(failure: EpisodeFailure) -> str:
    """``episode 5, vqa (3 attempts): the cause``."""
    tried = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    return f"episode {failure.episode}, {failure.module}{tried}: {failure.cause}"


def failure_text(report: AnnotateReport, episodes: int, allowed: int) -> str:
    """Which of the ``episodes`` failed, and why, where only ``allowed`` may; and what to do."""
    failures = report.failures
    lines = [f"  {describe_failure(failure)}" for failure in failures[:SHOWN_FAILURES]]
    more = len(failures) - SHOWN_FAILURES
    if more > 0:
        lines.append(f"  and {more} more")
    left = episodes - report.episodes_done
    stopped = f"; the run stopped with {left} episodes not begun" if left else ""
    return "\n".join(
        [
            f"{len(report.failed_episodes)} of {episodes} episodes failed, "
            f"spec.failurePolicy.maxFailedEpisodes allows {allowed}{stopped}; nothing was written to the "
            "output, what succeeded is staged, and a rerun asks only for the rest:",
            *lines,
            "look at the causes, then run again; if an episode stays unusable, leave it out of "
            "spec.source.episodes, or raise spec.failurePolicy.maxFailedEpisodes (its rows stay as they are)",
        ]
    )
