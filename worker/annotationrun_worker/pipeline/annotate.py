"""The annotate step, and how many episodes a worker holds meanwhile.

How many episodes a worker holds: enough to keep its requests in flight, and no more.

What one worker holds, no other can take. A worker that took episodes up to a fixed number would leave the
others without work at the end; so it takes the next only when those that it holds can't fill its share of the
server twice over (once in flight, once being looked at meanwhile).

The annotate step: every (episode, module) of the plan that has no staged result yet gets one.

Episodes run side by side, the longest first; within an episode the modules do, as far as they don't build on
each other. There is no barrier between episodes. What other workers hold is left to them, and looked at again
in the end where the step is to wait for it. What fails is recorded, and the rest goes on as long as the
manifest allows it. Then no further episode is begun; those at work are finished, as what they get is staged
and counts in the next run. What makes every request fail (configuration, a lost server, a full disk) stops
the step at once.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.language.rows import ModuleName, ResultName
from annotationrun_worker.modules.base import UnansweredQuestion
from annotationrun_worker.pipeline.episode import EpisodeAnnotator, EpisodeOutcome
from annotationrun_worker.pipeline.report import AnnotateReport, EpisodeSeen, LeftResult
from annotationrun_worker.pipeline.result_maker import Left, Worker
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.progress import EpisodeMarks
from annotationrun_worker.vlm.request import ServerNeeds
from annotationrun_worker.vlm.server import AT_HAND


@dataclass(slots=True)
class Load:
    """Requests that the episodes at work may still make side by side."""

    requests_in_flight: int
    """The worker's bound."""
    _expected: dict[EpisodeIndex, int] = field(default_factory=dict)
    """Requests still to come that need not wait for each other."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self, episode: EpisodeIndex, requests_at_once: int) -> None:
        """Wait until another episode is wanted, and count ``episode`` in."""
        while sum(self._expected.values()) >= AT_HAND * self.requests_in_flight:
            self._changed.clear()
            await self._changed.wait()
        self._expected[episode] = max(1, requests_at_once)

    def answered(self, episode: EpisodeIndex) -> None:
        """One question of ``episode`` is done with; while it is at work at least one more may come."""
        self._expected[episode] = max(1, self._expected[episode] - 1)
        self._changed.set()

    def end(self, episode: EpisodeIndex) -> None:
        """The episode is done with."""
        del self._expected[episode]
        self._changed.set()


LOOK_AGAIN_SECONDS: Final = 1.0
"""Between two looks at what other workers hold."""


def allowed_failures(limit: int | str, episodes: int) -> int:
    """How many of ``episodes`` may fail: a number as it is, of a share such as ``5%`` the whole part."""
    if isinstance(limit, int):
        return limit
    return episodes * int(limit.removesuffix("%")) // 100


Progress = Callable[[EpisodeSeen], None]
"""Told of each episode that is done."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How much the step takes on."""

    episodes: int
    """Held at once, at most."""
    requests: int
    """In flight at once, at most."""
    failures: int = 0
    """Episodes that may fail."""


@dataclass(frozen=True, slots=True)
class AnnotateStep:
    """What the step works with."""

    annotator: EpisodeAnnotator
    limits: StepLimits
    requests_at_once: Callable[[EpisodeIndex], int]
    """Requests that an episode can have in flight, at most."""
    report: AnnotateReport
    keys: dict[int, dict[ModuleName, Digest]] = field(default_factory=dict)
    """Result keys by episode and module, of the episodes that have all their results."""
    task_keys: dict[int, Digest] = field(default_factory=dict)
    """By episode, of the results that derived its task, on which all others build."""
    earlier_rounds: set[Digest] = field(default_factory=set)
    """Of the results that ``keys`` names: they lead to them."""
    unanswered: set[Digest] = field(default_factory=set)
    """Those that ``keys`` names and that lack answers: whoever asks again builds on the answers there are."""
    marks: EpisodeMarks | None = None
    """Where what is done and what is given up is noted for others; ``None``: nowhere."""
    server_needs: Callable[[], ServerNeeds] | None = None
    """What the model servers have to take; ``None``: nothing is tried there."""
    give_up: Callable[[], None] = lambda: None
    """Called when the step ends with an error or is cancelled: nothing more shall be fetched for it."""
    held_for: Digest | None = None
    """The plan whose episodes are taken by one worker each, before their files are fetched; ``None``: workers
    share an episode, module by module."""

    @property
    def has_too_many_failures(self) -> bool:
        """Whether more episodes failed than may."""
        return len(self.report.failed_episodes) > self.limits.failures

    async def run(
        self,
        indices: Sequence[EpisodeIndex],
        worker: Worker | None,
        progress: Progress,
        *,
        waits: bool = False,
    ) -> None:
        """Annotate the episodes ``indices``, in this order as far as work goes side by side.

        Args:
            indices: of the episodes.
            worker: makes what is missing; without one what is staged is gathered.
            progress: told of each episode.
            waits: for what other workers hold, until they have made it, or it can be taken over.

        Raises:
            ConfigurationError, ServerNotReadyError, StorageError: nothing more can be done.
        """
        total, left = len(indices), list(indices)
        while left:
            left = await self._pass(
                left, worker, lambda index, outcome: progress(_event(index, outcome, total))
            )
            if not left or not waits or self.has_too_many_failures:
                return
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _pass(
        self,
        indices: Sequence[EpisodeIndex],
        worker: Worker | None,
        seen: Callable[[EpisodeIndex, EpisodeOutcome], None],
    ) -> list[EpisodeIndex]:
        """Once over the episodes; gives those that were left, in order."""
        self.report.left.clear()
        self.report.results_of_left = 0
        queue = iter(indices)
        load = Load(self.limits.requests)

        async def work(queue: Iterator[EpisodeIndex]) -> None:
            for index in queue:
                await load.begin(index, self.requests_at_once(index) if worker else 0)
                mine = worker and replace(
                    worker,
                    asker=replace(
                        worker.asker, affinity=str(index), on_answered=partial(load.answered, index)
                    ),
                )
                outcome = await self._annotate(index, mine)
                load.end(index)
                self._take(index, outcome)
                await self._mark(index, outcome)
                seen(index, outcome)
                if self.has_too_many_failures and worker is not None:
                    return

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self.limits.episodes, len(indices))):
                    workers.create_task(work(queue))
        except BaseException as error:
            self.give_up()
            if isinstance(error, ExceptionGroup):
                raise _first(error) from error
            raise
        left = {found.episode for found in self.report.left}
        return [index for index in indices if index in left]

    async def _annotate(self, index: EpisodeIndex, worker: Worker | None) -> EpisodeOutcome:
        if self.held_for is None or worker is None:
            return await self.annotator.annotate(index, worker)
        key = digest_json({"plan": self.held_for, "episode": int(index)})
        holder = await worker.claims.take(key)
        if holder is not None:
            return EpisodeOutcome(left={"task": Left(holder)})
        try:
            return await self.annotator.annotate(index, worker)
        finally:
            await worker.claims.release(key)

    def _take(self, index: EpisodeIndex, outcome: EpisodeOutcome) -> None:
        report = self.report
        report.results_made += outcome.made
        report.results_made_twice += outcome.made_twice
        report.unanswered_made.update(outcome.unanswered_made)
        if outcome.failures:
            report.failures += outcome.failures
            report.episodes_failed_here += outcome.has_failed_here
        elif outcome.left:
            report.left += [LeftResult(index, name, it.holder) for name, it in outcome.left.items()]
            report.results_of_left += len(outcome.results)
            return
        report.results_reused += len(outcome.results) - outcome.made
        if outcome.failures:
            return
        report.episodes_done += 1
        report.episodes_finished += bool(outcome.made)
        self.keys[index] = {name: result.key for name, result in outcome.results.items()}
        for result in outcome.results.values():
            self.earlier_rounds.update(result.earlier_rounds)
            if result.unanswered:
                self.unanswered.add(result.key)
        if outcome.task_key is not None:
            self.task_keys[index] = outcome.task_key
        report.unanswered += [
            (index, name, UnansweredQuestion(**question))
            for name, result in outcome.results.items()
            for question in result.unanswered
        ]
        report.unanswered_by_module.update(
            {name: len(it.unanswered) for name, it in outcome.results.items() if it.unanswered}
        )
        if outcome.lacks_subtasks and "interjections" in outcome.results:
            report.speech_only.append(index)

    async def _mark(self, index: EpisodeIndex, outcome: EpisodeOutcome) -> None:
        if self.marks is None:
            return
        if outcome.failures:
            await self.marks.mark_failed(index)
        elif not outcome.left:
            await self.marks.mark_done(index)


def _event(index: EpisodeIndex, outcome: EpisodeOutcome, total: int) -> EpisodeSeen:
    return EpisodeSeen(
        episode=index,
        total=total,
        failed=bool(outcome.failures),
        left=bool(outcome.left) and not outcome.failures,
        made=outcome.made,
        made_twice=outcome.made_twice,
    )


def results_of(keys: Mapping[int, Mapping[ModuleName, Digest]]) -> dict[Digest, ResultName]:
    """The module of each result, by its key."""
    return {key: module for found in keys.values() for module, key in found.items()}


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
