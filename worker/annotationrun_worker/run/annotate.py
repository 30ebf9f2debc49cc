"""The annotate step: every (episode, module) of the plan that has no staged result yet gets one.

Episodes run side by side up to the manifest's limit, the longest first; within an episode the modules do.
There is no barrier between episodes. What fails is recorded and the rest goes on; what makes every request
fail (configuration, a server that is gone, a full disk) stops the step.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from annotationrun_worker.annotate.context import EpisodeContext, Hole
from annotationrun_worker.dataset.records import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import AnswerError, DatasetError, RequestFailedError
from annotationrun_worker.frames.provider import FrameProvider
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.run.keys import ResultIdentity
from annotationrun_worker.run.modules import Module
from annotationrun_worker.run.report import AnnotateReport, EpisodeFailure
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.results import ModuleResult, read_result, stage_result
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.ask import Asker


class Progress(Protocol):
    """Told of each episode that is done."""

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` episodes have all their results, or failed."""


class EpisodeSource(Protocol):
    """Reads episodes, one at a time and lazily."""

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode's record; raises DatasetError."""

    def fingerprint(self, episode: EpisodeRecord, module: Module) -> Digest:
        """Digest of what ``module`` sees of ``episode``; raises DatasetError."""


@dataclass(frozen=True, slots=True)
class AnnotateStep:
    """What the step works with."""

    episodes: EpisodeSource
    modules: Sequence[Module]
    frames: FrameProvider
    store: StagingStore
    model: dict[str, Any]
    """What results depend on of model and sampling; JSON values."""
    seed: int
    output_language: str
    max_holes_percent: float
    episode_concurrency: int
    report: AnnotateReport = field(default_factory=AnnotateReport)
    keys: dict[int, dict[ModuleName, Digest]] = field(default_factory=dict)
    """Result keys by episode and module, of those that have a result."""

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
                await self._annotate_episode(index, asker)
                done += 1
                progress(done, len(indices))

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.episode_concurrency, len(indices))):
                    workers.create_task(work(queue))
        except ExceptionGroup as group:
            raise _first(group) from group

    async def _annotate_episode(self, index: EpisodeIndex, asker: Asker) -> None:
        try:
            episode = await asyncio.to_thread(self.episodes.read, index)
        except DatasetError as error:
            self._record(index, "*", error)
            return
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._annotate_module(episode, module, asker)) for module in self.modules
            ]
        results = [result for task in tasks if (result := task.result()) is not None]
        self.keys[index] = {result.module: result.key for result in results}
        self.report.holes += [(index, Hole(**hole)) for result in results for hole in result.holes]

    async def _annotate_module(
        self, episode: EpisodeRecord, module: Module, asker: Asker
    ) -> ModuleResult | None:
        try:
            fingerprint = await asyncio.to_thread(self.episodes.fingerprint, episode, module)
            key = self._identity(module, fingerprint).key()
            result = await read_result(self.store, module.name, key)
            if result is not None:
                self.report.results_reused += 1
                return result
            context = EpisodeContext(episode, self.frames, asker, self.seed, fingerprint)
            result = await stage_result(self.store, await self._make(context, module, key))
        except (DatasetError, AnswerError) as error:
            self._record(episode.index, module.name, error)
            return None
        except RequestFailedError as error:
            await asker.client.check_model()
            self._record(episode.index, module.name, error)
            return None
        self.report.results_made += 1
        return result

    async def _make(self, context: EpisodeContext, module: Module, key: Digest) -> ModuleResult:
        rows, holes = await module.annotate(context)
        asked = len({row.request for row in rows if row.request}) + len(holes)
        if len(holes) * 100 > self.max_holes_percent * asked:
            raise AnswerError(
                f"{len(holes)} of {asked} answers are unusable, more than failurePolicy.maxHolesPercent "
                f"({self.max_holes_percent}); the first: {holes[0].cause}"
            )
        return ModuleResult(module.name, key, tuple(rows), tuple(asdict(hole) for hole in holes))

    def _identity(self, module: Module, fingerprint: Digest) -> ResultIdentity:
        return ResultIdentity(
            module=module.name,
            fingerprint=fingerprint,
            settings=module.settings,
            model=self.model,
            prompts=module.prompts,
            seed=self.seed,
            output_language=self.output_language,
        )

    def _record(self, index: EpisodeIndex, module: str, error: Exception) -> None:
        self.report.failures.append(EpisodeFailure(index, module, str(error)))


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
