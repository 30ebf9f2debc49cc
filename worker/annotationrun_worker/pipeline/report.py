"""What a run tells: events as it goes, and a report at its end.

What ``annotate --events`` tells whoever started it: one JSON object a line on stdout.

``{"episode": 3, "total": 6, "failed": false, "left": false, "made": 2, "made_twice": 0}`` when the worker is
through with an episode; ``{"usage": {"vqa": {"requests": 12, ...}}}`` and ``{"frames": {"asked": 40, ...}}``
about once a second while they grow and at the end: the counts since the start; and ``{"server": {...}}`` when
the model server was tried, and at the end.

What a run did, as values: for the terminal now, for status and reports later.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.modules.base import UnansweredQuestion
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.vlm.server import ServerCounts, ServerFindings, Usage


@dataclass(frozen=True, slots=True)
class EpisodeSeen:
    """A worker is through with an episode: it has all its results, failed, or was left to another."""

    episode: EpisodeIndex
    total: int
    """Episodes of the plan."""
    failed: bool
    left: bool
    """Another worker is at a part of it."""
    made: int
    """Results made by this worker since it last looked at the episode; the others were staged."""
    made_twice: int
    """Of those, another worker had staged first."""


def encode_event(event: EpisodeSeen | ServerFindings | FrameCounts | Mapping[str, Usage]) -> str:
    """As a line, without its end."""
    if isinstance(event, EpisodeSeen):
        return json.dumps(asdict(event))
    if isinstance(event, ServerFindings):
        return json.dumps({"server": asdict(event)})
    if isinstance(event, FrameCounts):
        return json.dumps({"frames": asdict(event)})
    return json.dumps({"usage": {kind: asdict(usage) for kind, usage in event.items()}})


def decode_event(line: str) -> EpisodeSeen | ServerFindings | FrameCounts | dict[str, Usage]:
    """Read what ``encode_event`` wrote.

    Raises:
        ValueError: the line is something else.
    """
    value = json.loads(line)
    try:
        if "server" in value:
            counts = value["server"].pop("counts")
            known = None if counts is None else ServerCounts(**counts)
            return ServerFindings(**value["server"], counts=known)
        if "frames" in value:
            return FrameCounts(**value["frames"])
        if "usage" in value:
            return {kind: Usage(**counts) for kind, counts in value["usage"].items()}
        return EpisodeSeen(**value)
    except TypeError as error:
        raise ValueError(f"no event: {line[:256]!r}") from error


@dataclass(frozen=True, slots=True)
class EpisodeFailure:
    """A module that made nothing of an episode."""

    episode: EpisodeIndex
    module: str
    """``task`` is the derived task; ``*`` the episode as a whole."""
    cause: str
    attempts: int = 1
    """Failed ones under the run's retry token, in all processes."""
    time: str = ""
    """Of the last one: ISO 8601, UTC; empty: nobody has tried."""


@dataclass(frozen=True, slots=True)
class LeftResult:
    """A result that is missing and was not tried."""

    episode: EpisodeIndex
    module: str
    holder: str | None
    """The worker that is at it; ``None``: nobody is."""


@dataclass(slots=True)
class AnnotateReport:
    """Counts of the annotate step; results are per episode and module."""

    episodes_done: int = 0
    """With all their results; those that failed are not among them."""
    results_made: int = 0
    results_reused: int = 0
    results_made_twice: int = 0
    """Made here although another worker had staged them first; theirs count."""
    failures: list[EpisodeFailure] = field(default_factory=list)
    left: list[LeftResult] = field(default_factory=list)
    """What other workers hold, or nobody was to make."""
    results_of_left: int = 0
    """Results that there are, of the episodes that lack others."""
    unanswered: list[tuple[EpisodeIndex, ModuleName, UnansweredQuestion]] = field(default_factory=list)
    """Questions without a usable answer in episodes that succeeded."""
    unanswered_by_module: Counter[str] = field(default_factory=Counter)
    """The same, counted."""
    speech_only: list[EpisodeIndex] = field(default_factory=list)
    """Episodes without subtasks: the module interjections made their first speech alone."""
    warnings: list[str] = field(default_factory=list)
    """What is doubtful of the run as a whole, and went on all the same."""
    server: ServerFindings | None = None
    """What the model server was found to take; ``None``: it was not asked anything."""

    worker_deaths: int = 0
    """Worker processes that died; others took over what they had claimed."""

    episodes_finished: int = 0
    """That this process did the last part of."""
    episodes_failed_here: int = 0
    """Given up by this process; one that can't be read, every process gives up."""
    unanswered_made: Counter[str] = field(default_factory=Counter)
    """Questions that this process got no usable answer to, by module."""

    def count_pool(self, made: int, made_twice: int, deaths: int) -> None:
        """Count in what worker processes made: it was staged when this report was begun."""
        self.results_made += made
        self.results_reused -= made
        self.results_made_twice += made_twice
        self.worker_deaths += deaths

    @property
    def failed_episodes(self) -> list[EpisodeIndex]:
        """Those with a failure, in order."""
        return sorted({failure.episode for failure in self.failures})

    def to_value(self) -> dict[str, Any]:
        """As it stands in a report file: JSON values."""
        return {
            "episodesDone": self.episodes_done,
            "episodesFailed": len(self.failed_episodes),
            "resultsMade": self.results_made,
            "resultsReused": self.results_reused,
            "resultsMadeTwice": self.results_made_twice,
            "workerDeaths": self.worker_deaths,
            "failures": [asdict(failure) for failure in self.failures],
            "left": [asdict(found) for found in self.left],
            "unanswered": [
                {"episode": episode, "module": module, **asdict(question)}
                for episode, module, question in self.unanswered
            ],
            "speechOnlyEpisodes": sorted(self.speech_only),
            "warnings": self.warnings,
            "server": None if self.server is None else self.server.to_value(),
        }


SHOWN_FAILURES = 20
"""Failures that an error's text names; more are counted."""


def describe_failure(failure: EpisodeFailure) -> str:
    """``episode 5, vqa (3 attempts): the cause``."""
    tried = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    return f"episode {failure.episode}, {failure.module}{tried}: {failure.cause}"


def failure_text(report: AnnotateReport, episodes: int, allowed: int) -> str:
    """Which of the ``episodes`` failed, and why, where only ``allowed`` may; and what to do."""
    left = episodes - report.episodes_done - len(report.failed_episodes)
    stopped = f"; the run stopped with {left} episodes not begun" if left else ""
    return "\n".join(
        [
            f"{len(report.failed_episodes)} of {episodes} episodes failed, "
            f"spec.failurePolicy.maxFailedEpisodes allows {allowed}{stopped}; nothing was written to the "
            "output, what succeeded is staged, and a rerun asks only for the rest:",
            *_listed([describe_failure(failure) for failure in report.failures]),
            "look at the causes, then run again: an episode that was given up "
            "(spec.workers.episodeAttempts) is tried again under a new spec.retryToken, or --retry-token; if "
            "it stays unusable, leave it out of spec.source.episodes, or raise "
            "spec.failurePolicy.maxFailedEpisodes (its rows stay as they are)",
        ]
    )


def missing_text(report: AnnotateReport, episodes: int) -> str:
    """Which of the ``episodes`` lack results that nobody tried to make, and what to do."""
    lines = [
        f"episode {found.episode}, {found.module}"
        + (f": worker {found.holder} is at it" if found.holder else "")
        for found in report.left
    ]
    missing = len({found.episode for found in report.left})
    return "\n".join(
        [
            f"{missing} of {episodes} episodes lack results; nothing was written to the output:",
            *_listed(lines),
            "run 'annotationrun annotate' (or 'run') with the same manifest, then merge again",
        ]
    )


def _listed(lines: Sequence[str]) -> list[str]:
    shown = [f"  {line}" for line in lines[:SHOWN_FAILURES]]
    more = len(lines) - SHOWN_FAILURES
    return [*shown, f"  and {more} more"] if more > 0 else shown
