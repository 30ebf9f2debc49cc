"""One episode: its modules as a small graph, and what failed of it tried again.

First the effective task, on which all build; then plan, and interjections on its subtasks; vqa beside them.
What another worker is making is left to it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from annotationrun_worker.dataset.types import EpisodeIndex, EpisodeRecord, quick_fingerprint
from annotationrun_worker.errors import (
    AnswerError,
    DatasetError,
    FrameDecodeError,
    GivenUpError,
    RequestFailedError,
)
from annotationrun_worker.language.rows import ModuleName, ResultName
from annotationrun_worker.modules.base import EffectiveTask, SubtaskStart
from annotationrun_worker.pipeline.modules import Module, RunModules
from annotationrun_worker.pipeline.report import EpisodeFailure
from annotationrun_worker.pipeline.result_maker import (
    ExistingRows,
    Known,
    Left,
    Made,
    ResultBasis,
    ResultMaker,
    Worker,
    note_failure,
    unread_key,
)
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.failures import FailedAttempt
from annotationrun_worker.staging.results import ModuleResult

Done = TypeVar("Done")

UNANSWERED_OF: Final[frozenset[ModuleName]] = frozenset({"interjections", "vqa"})
"""Modules that go on without an answer; the others fail."""

_TRIED_AGAIN: Final = (AnswerError, FrameDecodeError, RequestFailedError)
"""Failures that another attempt may mend; a dataset that is broken stays so."""


@dataclass(slots=True)
class EpisodeOutcome:
    """What came of one episode."""

    results: dict[ModuleName, ModuleResult] = field(default_factory=dict)
    task_key: Digest | None = None
    """Of the result that derived the task, where one did: what the others build on."""
    made: int = 0
    """Of the results; the others were staged before."""
    made_twice: int = 0
    """Results made here that another worker had staged first."""
    failures: list[EpisodeFailure] = field(default_factory=list)
    left: dict[ResultName, Left] = field(default_factory=dict)
    """Results that are missing and were not tried."""
    has_failed_here: bool = False
    """Among the failures are some of this worker's own."""
    unanswered_made: Counter[str] = field(default_factory=Counter)
    """By module, in what was made here."""
    lacks_subtasks: bool = False
    """A module that builds on subtasks found none."""


@dataclass(frozen=True, slots=True)
class EpisodeAnnotator:
    """Makes the results of episodes, one episode a call."""

    basis: ResultBasis
    modules: RunModules

    async def annotate(self, index: EpisodeIndex, worker: Worker | None) -> EpisodeOutcome:
        """All results of an episode, or what failed, after as many attempts as the policy allows.

        Without a ``worker`` nothing is made: what is not staged is left.

        Raises:
            ConfigurationError, ServerNotReadyError, StorageError: nothing more can be done in this run.
        """
        try:
            episode = await asyncio.to_thread(self.basis.episodes.read, index)
            existing = await asyncio.to_thread(self.existing_rows, episode)
            is_noted = worker is not None and self.basis.index is not None
            parts = await asyncio.to_thread(self.basis.episodes.quick_parts, episode) if is_noted else {}
        except DatasetError as error:
            key = unread_key(self.basis.plan, index, "*")
            failed = await note_failure(self.basis, key, error, tries=worker is not None)
            return EpisodeOutcome(failures=[_failure(index, "*", error, failed)], has_failed_here=True)
        quick_keys = self.quick_keys(episode.task, parts, existing) if is_noted else {}
        maker = ResultMaker(self.basis, episode, worker, quick_keys)
        work = _EpisodeWork(self, episode, existing, maker)
        for _ in range(self.basis.policy.attempts):
            await work.try_all()
            if not any(isinstance(error, _TRIED_AGAIN) for error in work.failures.values()):
                break
        work.outcome.failures = [
            _failure(index, name, error, work.failed.get(name)) for name, error in work.failures.items()
        ]
        return work.outcome

    @property
    def needs_existing_rows(self) -> bool:
        """Whether what is made of an episode depends on the rows that it has."""
        published = self.modules.published
        lacks_plan = all(module.name != "plan" for module in published)
        needs_subtasks = any(module.builds_on_subtasks for module in published)
        return self.basis.policy.existing_rows == "Keep" or (lacks_plan and needs_subtasks)

    def existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        """The rows of ``episode``, as far as it depends on them what is made.

        Raises:
            DatasetError: they can't be read.
        """
        return self.basis.episodes.existing_rows(episode) if self.needs_existing_rows else ExistingRows()

    def modules_of(self, existing: ExistingRows) -> list[Module[ModuleName]]:
        """Those whose results an episode needs that has the rows ``existing``."""
        keeps = self.basis.policy.existing_rows == "Keep"
        return [
            module for module in self.modules.published if not (keeps and module.name in existing.modules)
        ]

    def quick_keys(
        self, task: str, parts: Mapping[str, str], existing: ExistingRows
    ) -> dict[ResultName, Digest]:
        """By which the results of an episode are found in the index, for all that it needs.

        Args:
            task: of the episode.
            parts: what its quick fingerprints are made of.
            existing: the rows that it has.
        """
        found: dict[ResultName, Digest] = {}

        def add(module: Module[ResultName], *builds_on: Digest) -> None:
            quick = Digest(quick_fingerprint(task, parts, module.cameras))
            found[module.name] = self.basis.identity(module, quick, builds_on).key()

        modules, rule = self.modules_of(existing), self.modules.task_rule
        if modules and rule is not None and rule.has_to_derive(task):
            add(rule.module)
        derived = tuple(found.values())
        for module in modules:
            if not module.builds_on_subtasks:
                add(module, *derived)
            else:
                add(module, *derived, found.get("plan") or _digest_of(existing.subtasks))
        return found


@dataclass(slots=True)
class _EpisodeWork:
    """The state of one episode from attempt to attempt."""

    annotator: EpisodeAnnotator
    episode: EpisodeRecord
    existing: ExistingRows
    maker: ResultMaker
    outcome: EpisodeOutcome = field(default_factory=EpisodeOutcome)
    failures: dict[str, Exception] = field(default_factory=dict)
    """Of the last attempt, by module."""
    failed: dict[str, FailedAttempt | None] = field(default_factory=dict)
    """The last failed attempt that is recorded, by module."""
    with_unanswered: dict[ModuleName, ModuleResult] = field(default_factory=dict)
    """Made in this attempt and not staged yet: whether too many questions are unanswered shows at its end."""
    asked_again: set[ModuleName] = field(default_factory=set)
    """Results that lack more answers than may be missing now, though they were staged."""
    lacks_answers: bool = False
    """The episode lacks more answers than may be missing."""

    async def try_all(self) -> None:
        """Make what is missing, and ask again what too many answers are missing of."""
        modules = self.annotator.modules_of(self.existing)
        if not modules:
            return
        while True:
            self.failures.clear()
            self.outcome.left.clear()
            try:
                await self._try_modules(modules)
            finally:
                await self.maker.release()
            if not self._has_to_ask_again():
                return

    async def _try_modules(self, modules: Sequence[Module[ModuleName]]) -> None:
        known = await self._recorded("task", self._effective_task())
        if known is None:
            return
        started: dict[ModuleName, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for module in modules:
                after = started.get("plan") if module.builds_on_subtasks else None
                started[module.name] = group.create_task(self._try(module, known, after))
        await self._settle_unanswered()

    async def _recorded(self, name: ResultName, work: Awaitable[Done | Left]) -> Done | None:
        """What ``work`` gives; ``None`` where it failed or was left, which is noted then."""
        try:
            done = await work
        except GivenUpError as error:
            self.failures[name] = error
        except (DatasetError, AnswerError) as error:
            await self._failed(name, error)
        except RequestFailedError as error:
            if self.maker.worker is not None:
                await self.maker.worker.asker.client.check_model()
            await self._failed(name, error)
        else:
            if not isinstance(done, Left):
                return done
            self.outcome.left[name] = done
        return None

    async def _failed(self, name: ResultName, error: Exception) -> None:
        self.failures[name] = error
        self.outcome.has_failed_here = True
        self.failed[name] = await self.maker.record_failure(name, error)

    async def _effective_task(self) -> Known | Left:
        own = EffectiveTask(self.episode.task)
        rule = self.annotator.modules.task_rule
        if rule is None or not rule.has_to_derive(own.text):
            return Known(own)
        made = await self.maker.make(rule.module, Known(own))
        if isinstance(made, Left):
            return made
        result = await self._staged(made)
        self.outcome.task_key = result.key
        (row,) = result.rows
        derived = EffectiveTask(row.content or "", None if row.request is None else Digest(row.request))
        return Known(derived, (result.content_digest,))

    async def _try(self, module: Module[ModuleName], known: Known, after: asyncio.Task[None] | None) -> None:
        """Make the result of one module, unless there is one; ``after`` makes what it builds on."""
        if after is not None:
            await after
        if module.name in self.outcome.results:
            return
        if module.builds_on_subtasks:
            if after is not None and "plan" not in self.outcome.results:
                return  # what failed or was left is noted
            known = self._with_subtasks(known)
        may_lack_answers = module.name not in self.asked_again
        making = self.maker.make(module, known, may_lack_answers=may_lack_answers)
        made = await self._recorded(module.name, making)
        if made is None:
            return
        if made.is_new and made.result.unanswered:
            self.with_unanswered[module.name] = made.result
            return
        self.outcome.results[module.name] = await self._staged(made)
        self.outcome.made += made.is_new

    async def _staged(self, made: Made) -> ModuleResult:
        if not made.is_new:
            return made.result
        staged, was_first = await self.maker.stage(made.result)
        self.outcome.made_twice += not was_first
        return staged

    def _with_subtasks(self, known: Known) -> Known:
        plan = self.outcome.results.get("plan")
        if plan is not None:
            rows = sorted((row for row in plan.rows if row.style == "subtask"), key=lambda row: row.frame)
            subtasks: Sequence[SubtaskStart] = [SubtaskStart(row.frame, row.content or "") for row in rows]
            digest = plan.content_digest
        else:
            subtasks = self.existing.subtasks
            digest = _digest_of(subtasks)
        self.outcome.lacks_subtasks = not subtasks
        return replace(known, digests=(*known.digests, digest), subtasks=subtasks)

    async def _settle_unanswered(self) -> None:
        """Stage results with unanswered questions, if these are not too many; else the episode failed."""
        results = self.outcome.results
        judged = [
            result
            for result in (*results.values(), *self.with_unanswered.values())
            if result.module in UNANSWERED_OF
        ]
        fault = too_many_unanswered(judged, self.annotator.basis.policy.max_unanswered_percent)
        self.lacks_answers = fault is not None
        for name, result in self.with_unanswered.items():
            if fault is None:
                results[name] = await self._staged(Made(result, is_new=True))
                self.outcome.made += 1
                self.outcome.unanswered_made[name] += len(result.unanswered)
            else:
                await self._failed(name, fault)
        self.with_unanswered.clear()
        if fault is not None and not self.failures:
            self.failures["*"] = fault  # staged under a limit that was higher

    def _has_to_ask_again(self) -> bool:
        """Whether staged results lack too many answers, and this worker has not asked for them yet."""
        if self.maker.worker is None or not self.lacks_answers:
            return False
        lacking = {
            name for name, result in self.outcome.results.items() if result.unanswered
        } - self.asked_again
        for name in lacking:
            del self.outcome.results[name]
        self.asked_again |= lacking
        return bool(lacking)


def too_many_unanswered(results: Sequence[ModuleResult], max_percent: float) -> AnswerError | None:
    """What is wrong if more than ``max_percent`` of the requests of an episode stayed without answer."""
    unanswered = [question for result in results for question in result.unanswered]
    asked = sum(result.asked for result in results)
    if not are_too_many(len(unanswered), asked, max_percent):
        return None
    return AnswerError(
        f"{len(unanswered)} of {asked} answers are unusable, more than failurePolicy.maxUnansweredPercent "
        f"({max_percent}); the first: {unanswered[0]['cause']}"
    )


def are_too_many(unanswered: int, asked: int, max_percent: float) -> bool:
    """Whether more than ``max_percent`` of the questions that were ``asked`` stayed without answer."""
    return unanswered * 100 > max_percent * asked


def _failure(
    index: EpisodeIndex, name: str, error: Exception, failed: FailedAttempt | None
) -> EpisodeFailure:
    if isinstance(error, GivenUpError):
        return EpisodeFailure(index, name, str(error), error.attempts, error.time)
    if failed is None:
        return EpisodeFailure(index, name, str(error))
    return EpisodeFailure(index, name, str(error), failed.attempt, failed.time)


def _digest_of(subtasks: Sequence[SubtaskStart]) -> Digest:
    return digest_json([[subtask.frame, subtask.text] for subtask in subtasks])
