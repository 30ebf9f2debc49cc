"""One episode: its modules as a small graph, and what failed of it tried again.

First the effective task, on which all build; then plan, and interjections on its subtasks; vqa beside them.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeVar

from annotationrun_worker.annotate.context import LOOKS_AT_ONCE, EffectiveTask, EpisodeContext, SubtaskStart
from annotationrun_worker.annotate.prompts import Prompts
from annotationrun_worker.dataset.records import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import AnswerError, DatasetError, FrameDecodeError, RequestFailedError
from annotationrun_worker.frames.provider import FrameProvider
from annotationrun_worker.rows import ModuleName, ResultName
from annotationrun_worker.run.existing_rows import ExistingRows
from annotationrun_worker.run.keys import ResultIdentity
from annotationrun_worker.run.modules import Module, RunModules
from annotationrun_worker.run.report import EpisodeFailure
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.results import ModuleResult, read_result, stage_result
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.ask import Asker

Done = TypeVar("Done")

_TRIED_AGAIN: Final = (AnswerError, FrameDecodeError, RequestFailedError)
"""Failures that another attempt may mend; a dataset that is broken stays so."""


class EpisodeSource(Protocol):
    """Reads episodes, one at a time and lazily."""

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode's record; raises DatasetError."""

    def fingerprint(self, episode: EpisodeRecord, module: Module[ResultName]) -> Digest:
        """Digest of what ``module`` sees of ``episode``; raises DatasetError."""

    def existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        """The language rows that the dataset has already; raises DatasetError."""


@dataclass(frozen=True, slots=True)
class EpisodePolicy:
    """What an episode may lose, and how often it is tried."""

    attempts: int
    max_holes_percent: float
    existing_rows: Literal["Replace", "Keep"]


@dataclass(slots=True)
class EpisodeOutcome:
    """What came of one episode."""

    results: dict[ModuleName, ModuleResult] = field(default_factory=dict)
    made: int = 0
    """Of the results; the others were staged before."""
    failures: list[EpisodeFailure] = field(default_factory=list)
    lacks_subtasks: bool = False
    """A module that builds on subtasks found none."""


@dataclass(frozen=True, slots=True)
class EpisodeAnnotator:
    """Makes the results of episodes, one episode a call."""

    episodes: EpisodeSource
    modules: RunModules
    frames: FrameProvider
    store: StagingStore
    prompts: Prompts
    model: Mapping[str, Any]
    """What results depend on of model and sampling; JSON values."""
    seed: int
    policy: EpisodePolicy
    looking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))
    """Holds back decoding: what waits for an answer is encoded, and small."""

    async def annotate(self, index: EpisodeIndex, asker: Asker) -> EpisodeOutcome:
        """All results of an episode, or what failed, after as many attempts as the policy allows.

        Raises:
            ConfigurationError, ServerNotReadyError, StorageError: nothing more can be done in this run.
        """
        try:
            episode = await asyncio.to_thread(self.episodes.read, index)
            existing = await asyncio.to_thread(self._existing_rows, episode)
        except DatasetError as error:
            return EpisodeOutcome(failures=[EpisodeFailure(index, "*", str(error))])
        work = _EpisodeWork(self, episode, existing)
        asker = replace(asker, affinity=str(index))
        for attempt in range(self.policy.attempts):
            await work.try_all(replace(asker, attempt=attempt))
            if not any(isinstance(error, _TRIED_AGAIN) for error in work.failures.values()):
                break
        work.outcome.failures = [
            EpisodeFailure(index, name, str(error), attempt + 1) for name, error in work.failures.items()
        ]
        return work.outcome

    def _existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        published = self.modules.published
        lacks_plan = all(module.name != "plan" for module in published)
        needs_subtasks = any(module.builds_on_subtasks for module in published)
        if self.policy.existing_rows == "Keep" or (lacks_plan and needs_subtasks):
            return self.episodes.existing_rows(episode)
        return ExistingRows()

    def identity(
        self, module: Module[ResultName], fingerprint: Digest, builds_on: Sequence[Digest]
    ) -> ResultIdentity:
        """What the result of ``module`` depends on."""
        return ResultIdentity(
            module=module.name,
            fingerprint=fingerprint,
            settings=module.settings,
            model=self.model,
            prompts=module.prompts,
            seed=self.seed,
            output_language=self.prompts.output_language,
            builds_on=builds_on,
        )


@dataclass(frozen=True, slots=True)
class _Known:
    """What the modules of an episode build on."""

    task: EffectiveTask
    digests: tuple[Digest, ...] = ()
    """Content digests of the results that it comes from."""
    subtasks: Sequence[SubtaskStart] = ()


@dataclass(slots=True)
class _EpisodeWork:
    """The state of one episode from attempt to attempt."""

    annotator: EpisodeAnnotator
    episode: EpisodeRecord
    existing: ExistingRows
    outcome: EpisodeOutcome = field(default_factory=EpisodeOutcome)
    failures: dict[str, Exception] = field(default_factory=dict)
    """Of the last attempt, by module."""
    with_holes: dict[ModuleName, ModuleResult] = field(default_factory=dict)
    """Made in this attempt and not staged yet: whether the holes are too many shows at its end."""

    async def try_all(self, asker: Asker) -> None:
        """Make what is missing."""
        self.failures.clear()
        keeps = self.annotator.policy.existing_rows == "Keep"
        modules = [
            module
            for module in self.annotator.modules.published
            if not (keeps and module.name in self.existing.modules)
        ]
        if not modules:
            return
        known = await self._recorded("task", self._effective_task(asker), asker)
        if known is None:
            return
        started: dict[ModuleName, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for module in modules:
                after = started.get("plan") if module.builds_on_subtasks else None
                started[module.name] = group.create_task(self._try(module, known, asker, after))
        await self._settle_holes()

    async def _recorded(self, name: str, work: Awaitable[Done], asker: Asker) -> Done | None:
        """What ``work`` gives; ``None`` where it failed, which stands in ``failures`` then."""
        try:
            return await work
        except (DatasetError, AnswerError) as error:
            self.failures[name] = error
        except RequestFailedError as error:
            await asker.client.check_model()
            self.failures[name] = error
        return None

    async def _effective_task(self, asker: Asker) -> _Known:
        own = EffectiveTask(self.episode.task)
        rule = self.annotator.modules.task_rule
        if rule is None or not rule.has_to_derive(own.text):
            return _Known(own)
        result, is_new = await self._result(rule.module, _Known(own), asker)
        if is_new:
            result = await stage_result(self.annotator.store, result)
        (row,) = result.rows
        derived = EffectiveTask(row.content or "", None if row.request is None else Digest(row.request))
        return _Known(derived, (result.content_digest,))

    async def _try(
        self,
        module: Module[ModuleName],
        known: _Known,
        asker: Asker,
        after: asyncio.Task[None] | None,
    ) -> None:
        """Make the result of one module, unless there is one; ``after`` makes what it builds on."""
        if after is not None:
            await after
        if module.name in self.outcome.results:
            return
        if module.builds_on_subtasks:
            if after is not None and "plan" not in self.outcome.results:
                return  # what failed is recorded
            known = self._with_subtasks(known)
        made = await self._recorded(module.name, self._result(module, known, asker), asker)
        if made is None:
            return
        result, is_new = made
        if is_new and result.holes:
            self.with_holes[module.name] = result
            return
        if is_new:
            result = await stage_result(self.annotator.store, result)
            self.outcome.made += 1
        self.outcome.results[module.name] = result

    def _with_subtasks(self, known: _Known) -> _Known:
        plan = self.outcome.results.get("plan")
        if plan is not None:
            rows = sorted((row for row in plan.rows if row.style == "subtask"), key=lambda row: row.frame)
            subtasks: Sequence[SubtaskStart] = [SubtaskStart(row.frame, row.content or "") for row in rows]
            digest = plan.content_digest
        else:
            subtasks = self.existing.subtasks
            digest = digest_json([[subtask.frame, subtask.text] for subtask in subtasks])
        self.outcome.lacks_subtasks = not subtasks
        return _Known(known.task, (*known.digests, digest), subtasks)

    async def _result(
        self, module: Module[ResultName], known: _Known, asker: Asker
    ) -> tuple[ModuleResult, bool]:
        """The staged result of ``module``, or a new one; whether it is new, and so not staged."""
        shop = self.annotator
        fingerprint = await asyncio.to_thread(shop.episodes.fingerprint, self.episode, module)
        key = shop.identity(module, fingerprint, known.digests).key()
        staged = await read_result(shop.store, module.name, key)
        if staged is not None:
            return staged, False
        await module.check(asker)
        context = EpisodeContext(
            episode=self.episode,
            frames=shop.frames,
            asker=asker,
            seed=shop.seed,
            fingerprint=fingerprint,
            task=known.task,
            prompts=shop.prompts,
            subtasks=known.subtasks,
            looking=shop.looking,
        )
        rows, holes = await module.annotate(context)
        return ModuleResult(module.name, key, tuple(rows), tuple(asdict(hole) for hole in holes)), True

    async def _settle_holes(self) -> None:
        """Stage what has holes, if the episode has not too many of them; else it failed."""
        results = self.outcome.results
        judged = [
            result for result in (*results.values(), *self.with_holes.values()) if result.module != "plan"
        ]
        fault = too_many_holes(judged, self.annotator.policy.max_holes_percent)
        for name, result in self.with_holes.items():
            if fault is None:
                results[name] = await stage_result(self.annotator.store, result)
                self.outcome.made += 1
            else:
                self.failures[name] = fault
        self.with_holes.clear()
        if fault is not None and not self.failures:
            self.failures["*"] = fault  # staged under a limit that was higher


def too_many_holes(results: Sequence[ModuleResult], max_percent: float) -> AnswerError | None:
    """What is wrong if more than ``max_percent`` of the requests of an episode stayed without answer."""
    holes = [hole for result in results for hole in result.holes]
    asked = sum(result.asked for result in results)
    if len(holes) * 100 <= max_percent * asked:
        return None
    return AnswerError(
        f"{len(holes)} of {asked} answers are unusable, more than failurePolicy.maxHolesPercent "
        f"({max_percent}); the first: {holes[0]['cause']}"
    )
