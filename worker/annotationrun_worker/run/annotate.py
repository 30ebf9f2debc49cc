"""The annotate step: every (episode, module) of the plan that has no staged result yet gets one.

Episodes run side by side up to the manifest's limit, the longest first; within an episode the modules do, as
far as they don't build on each other. There is no barrier between episodes. What fails is recorded, and the
rest goes on as long as the manifest allows it. Then no further episode is begun; those at work are finished,
as what they get is staged and counts in the next run. What makes every request fail (configuration, a lost
server, a full disk) stops the step at once.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from annotationrun_worker.annotate.context import Hole
from annotationrun_worker.dataset.records import EpisodeIndex
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.run.episode import EpisodeAnnotator, EpisodeOutcome
from annotationrun_worker.run.report import AnnotateReport
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.vlm.ask import Asker


def allowed_failures(limit: int | str, episodes: int) -> int:
    """How many of ``episodes`` may fail: a number as it is, of a share such as ``5%`` the whole part."""
    if isinstance(limit, int):
        return limit
    return episodes * int(limit.removesuffix("%")) // 100


class Progress(Protocol):
    """Told of each episode that is done."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` episodes have all their results, or failed."""


@dataclass(frozen=True, slots=True)
class AnnotateStep:
    """What the step works with."""

    annotator: EpisodeAnnotator
    episode_concurrency: int
    report: AnnotateReport
    allowed_failures: int = 0
    """Episodes that may fail."""
    keys: dict[int, dict[ModuleName, Digest]] = field(default_factory=dict)
    """Result keys by episode and module, of the episodes that have all their results."""

    @property
    def has_too_many_failures(self) -> bool:
        """Whether more episodes failed than may."""
        return len(self.report.failed_episodes) > self.allowed_failures

    async def run(self, indices: Sequence[EpisodeIndex], asker: Asker, progress: Progress) -> None:
        """Annotate the episodes ``indices``, in this order as far as work goes side by side.

        Raises:
            ConfigurationError, ServerNotReadyError, StorageError: nothing more can be done.
        """
        queue = iter(indices)
        done = 0

        async def work(queue: Iterator[EpisodeIndex]) -> None:
            nonlocal done
            for index in queue:
                self._take(index, await self.annotator.annotate(index, asker))
                done += 1
                progress(done, len(indices))
                if self.has_too_many_failures:
                    return

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.episode_concurrency, len(indices))):
                    workers.create_task(work(queue))
        except ExceptionGroup as group:
            raise _first(group) from group

    def _take(self, index: EpisodeIndex, outcome: EpisodeOutcome) -> None:
        report = self.report
        report.episodes_done += 1
        report.results_made += outcome.made
        report.results_reused += len(outcome.results) - outcome.made
        if outcome.failures:
            report.failures += outcome.failures
            return
        self.keys[index] = {name: result.key for name, result in outcome.results.items()}
        report.holes += [
            (index, Hole(**hole)) for result in outcome.results.values() for hole in result.holes
        ]
        if outcome.lacks_subtasks and "interjections" in outcome.results:
            report.speech_only.append(index)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
