"""The result of one module for one episode, and the rows that it goes by.

What an episode's language columns hold before the run: whose rows, and which subtasks.

The result of one module for one episode: staged already, another worker's to make, or made here.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np

from annotationrun_worker.dataset.types import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import DatasetError, GivenUpError
from annotationrun_worker.language.existing import AnnotatedEpisode, modules_of, read_annotated
from annotationrun_worker.language.rows import ModuleName, ResultName
from annotationrun_worker.modules.base import (
    EffectiveTask,
    EpisodeContext,
    Looks,
    Prompts,
    SubtaskStart,
)
from annotationrun_worker.pipeline.modules import Module, ResultIdentity
from annotationrun_worker.staging.digests import Digest, digest_json, token_digest
from annotationrun_worker.staging.failures import (
    FailedAttempt,
    count_failures,
    read_failures,
    record_failure,
)
from annotationrun_worker.staging.leases import Claims
from annotationrun_worker.staging.results import (
    IndexedResult,
    ModuleResult,
    ResultIndex,
    Rounds,
    read_result,
    read_rounds,
    stage_result,
)
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.video.provider import FrameProvider
from annotationrun_worker.vlm.ask import Asker


@dataclass(frozen=True, slots=True)
class ExistingRows:
    """Rows of one episode that the dataset has already."""

    modules: frozenset[ModuleName] = frozenset()
    """Modules that own at least one of them."""
    subtasks: Sequence[SubtaskStart] = ()
    """In order."""


@dataclass(frozen=True, slots=True)
class ExistingRowsReader:
    """Reads each data file once, when its first episode is asked for; safe for any number of threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _by_file: dict[Path, dict[int, ExistingRows]] = field(default_factory=dict)

    def read(self, episode: EpisodeRecord) -> ExistingRows:
        """The rows of ``episode``; none where its file has no language columns.

        Raises:
            DatasetError: the file can't be read, or a subtask stands at no frame's time.
        """
        with self._lock:
            path = episode.data_path
            if path not in self._by_file:
                self._by_file[path] = {found.index: _rows_of(found, path) for found in read_annotated(path)}
            return self._by_file[path].get(int(episode.index), ExistingRows())


def _rows_of(episode: AnnotatedEpisode, path: Path) -> ExistingRows:
    rows = sorted(
        (row.timestamp_seconds, row.content)
        for row in episode.language.persistent
        if row.style == "subtask" and row.content and row.timestamp_seconds is not None
    )
    subtasks = []
    for seconds, text in rows:
        frames = np.flatnonzero(episode.timestamps_seconds == np.float32(seconds))
        if len(frames) == 0:
            raise DatasetError(
                f"{path}, episode {EpisodeIndex(episode.index)}: the subtask {text!r} stands at {seconds} s, "
                "which is no frame's time; repair it, or enable the module plan"
            )
        subtasks.append(SubtaskStart(int(frames[0]), text))
    return ExistingRows(modules_of(episode.language), tuple(subtasks))


LOOK_AGAIN_SECONDS: Final = 5.0
"""Between two looks at a result, while the model server is not there."""


class EpisodeSource(Protocol):
    """Reads episodes, one at a time and lazily."""

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode's record; raises DatasetError."""

    def fingerprint(self, episode: EpisodeRecord, module: Module[ResultName]) -> Digest:
        """Digest of what ``module`` sees of ``episode``; raises DatasetError."""

    def quick_parts(self, episode: EpisodeRecord) -> Mapping[str, str]:
        """What the quick fingerprints of ``episode`` are made of; raises DatasetError."""

    def existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        """The language rows that the dataset has already; raises DatasetError."""


@dataclass(frozen=True, slots=True)
class EpisodePolicy:
    """What an episode may lose, and how often it is tried."""

    attempts: int
    max_unanswered_percent: float
    existing_rows: Literal["Replace", "Keep"]
    retry_token: str = ""
    """Failed attempts are counted under it; a new one begins anew."""


@dataclass(frozen=True, slots=True)
class ResultBasis:
    """What all results of a run are made with."""

    episodes: EpisodeSource
    frames: FrameProvider
    store: StagingStore
    prompts: Prompts
    model: Mapping[str, Any]
    """What results depend on of model and sampling; JSON values."""
    seed: int
    policy: EpisodePolicy
    plan: Digest
    """Failures of what can't be read are counted under it."""
    index: ResultIndex | None = None
    """Where results are noted for those who plan; ``None``: nowhere."""
    looking: Looks = field(default_factory=Looks)
    """Holds back decoding: what waits for an answer is encoded, and small."""

    def identity(
        self, module: Module[ResultName], fingerprint: Digest, builds_on: Sequence[Digest]
    ) -> ResultIdentity:
        """What a result of ``module`` depends on.

        Args:
            module: that makes it.
            fingerprint: of what it sees of the episode.
            builds_on: content digests of the results that it comes from, or what stands for them.
        """
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
class Worker:
    """Who makes results: it can ask, and says what it is at."""

    asker: Asker
    claims: Claims


@dataclass(frozen=True, slots=True)
class Made:
    """A result that there is."""

    result: ModuleResult
    is_new: bool
    """Made just now, and not staged yet."""


@dataclass(frozen=True, slots=True)
class Left:
    """A result that is missing and was not tried."""

    holder: str | None
    """The worker that is at it; ``None``: nobody was asked to make it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the modules of an episode build on."""

    task: EffectiveTask
    digests: tuple[Digest, ...] = ()
    """Content digests of the results that it comes from."""
    subtasks: Sequence[SubtaskStart] = ()


@dataclass(slots=True)
class ResultMaker:
    """Makes the results of one episode."""

    basis: ResultBasis
    episode: EpisodeRecord
    worker: Worker | None
    """``None``: nothing is made."""
    quick_keys: Mapping[ResultName, Digest] = field(default_factory=dict)
    """By which those who plan find the results: see ``quick_keys``."""
    _at_work: dict[str, Digest] = field(default_factory=dict)
    """Keys of what is claimed, by module."""
    _earlier: dict[ResultName, ModuleResult] = field(default_factory=dict)
    """The results that stand where nothing more is answered, by module."""

    async def make(
        self, module: Module[ResultName], known: Known, *, may_lack_answers: bool = True
    ) -> Made | Left:
        """The result of ``module``, staged or new, unless another worker is at it.

        Questions that stayed without a usable answer are asked again under another retry token than before,
        or where the result may not lack answers.

        Raises:
            GivenUpError: it failed as often as it may.
            ServerNotReadyError: the model server was not there in time.
            DatasetError, AnswerError, RequestFailedError: it failed now; see ``record_failure``.
        """
        basis, store = self.basis, self.basis.store
        fingerprint = await asyncio.to_thread(basis.episodes.fingerprint, self.episode, module)
        first_key = basis.identity(module, fingerprint, known.digests).key()
        rounds = await read_rounds(store, module.name, first_key)
        if rounds.result is not None and self._is_settled(rounds, may_lack_answers=may_lack_answers):
            return await self._noted(rounds.result)
        key = rounds.next_key
        if rounds.result is not None:
            self._earlier[module.name] = rounds.result
        try:
            failed = await self._failed_attempts(key)
        except GivenUpError:
            if rounds.result is not None and may_lack_answers:
                return await self._noted(rounds.result)
            raise
        if self.worker is None:
            return Left(None)
        settled = await self._wait_for_server(self.worker, module.name, key)
        if settled is not None:
            return settled
        holder = await self.worker.claims.take(key)
        if holder is not None:
            return Left(holder)
        self._at_work[module.name] = key
        staged = await self._staged(module.name, key)  # its maker may have ended just before the claim
        if staged is not None:
            return staged
        # under a new token too another seed is asked with: the old ones gave nothing
        may_have_failed = failed or basis.policy.retry_token or rounds.result is not None
        attempt = rounds.next_attempt + (await count_failures(store, key) if may_have_failed else 0)
        asker = replace(self.worker.asker, attempt=attempt)
        await module.check(asker)
        context = EpisodeContext(
            episode=self.episode,
            frames=basis.frames,
            asker=asker,
            seed=basis.seed,
            fingerprint=fingerprint,
            task=known.task,
            prompts=basis.prompts,
            subtasks=known.subtasks,
            looking=basis.looking,
        )
        rows, questions = await module.annotate(context)
        unanswered = tuple(asdict(question) for question in questions)
        token = token_digest(basis.policy.retry_token)
        made = ModuleResult(module.name, key, tuple(rows), unanswered, token, attempt, tuple(rounds.keys))
        return Made(made, is_new=True)

    def _is_settled(self, rounds: Rounds, *, may_lack_answers: bool) -> bool:
        if rounds.result is None or not rounds.result.unanswered:
            return True
        return may_lack_answers and token_digest(self.basis.policy.retry_token) in rounds.retry_tokens

    async def _noted(self, result: ModuleResult) -> Made:
        """A staged result; whoever plans finds it from now on."""
        quick_key = self.quick_keys.get(result.module)
        if self.worker is not None and self.basis.index is not None and quick_key is not None:
            await self.basis.index.add(result.module, IndexedResult.of(quick_key, result))
        return Made(result, is_new=False)

    async def _staged(self, name: ResultName, key: Digest) -> Made | None:
        staged = await read_result(self.basis.store, name, key)
        return None if staged is None else await self._noted(staged)

    async def _failed_attempts(self, key: Digest) -> int:
        policy = self.basis.policy
        failed = await read_failures(self.basis.store, key, policy.retry_token)
        if len(failed) >= policy.attempts:
            raise GivenUpError(failed[-1].cause, len(failed), failed[-1].time)
        return len(failed)

    async def _wait_for_server(self, worker: Worker, name: ResultName, key: Digest) -> Made | Left | None:
        """Claim nothing before the model server is there: until then the work is free for other workers.

        What comes of it meanwhile is given; ``None``: the server is there.
        """
        while not await worker.asker.client.is_ready(LOOK_AGAIN_SECONDS):
            staged = await self._staged(name, key)
            if staged is not None:
                return staged
            await self._failed_attempts(key)
            holder = await worker.claims.holder(key)
            if holder is not None:
                return Left(holder)
        return None

    async def stage(self, result: ModuleResult) -> tuple[ModuleResult, bool]:
        """Stage ``result``; what is staged now, and whether it is this one and not another worker's."""
        staged, was_first = await stage_result(self.basis.store, result)
        await self._noted(staged)
        earlier = self._earlier.get(result.module)
        if earlier is not None and earlier.content_digest == staged.content_digest:
            return earlier, was_first
        return staged, was_first

    async def record_failure(self, name: str, error: Exception) -> FailedAttempt | None:
        """Note that ``name`` failed, where somebody tries to make it; the last failed attempt at it.

        What failed before it was claimed has no key yet: it counts by plan and episode.
        """
        key = self._at_work.get(name) or unread_key(self.basis.plan, self.episode.index, name)
        return await note_failure(self.basis, key, error, tries=self.worker is not None)

    async def release(self) -> None:
        """Let go what was claimed."""
        if self.worker is not None:
            for name in list(self._at_work):
                await self.worker.claims.release(self._at_work.pop(name))


async def note_failure(
    basis: ResultBasis, key: Digest, error: Exception, *, tries: bool
) -> FailedAttempt | None:
    """Record a failed attempt at ``key``, if this process ``tries`` to make it; gives the last one."""
    token = basis.policy.retry_token
    if tries:
        return await record_failure(basis.store, key, token, str(error))
    failed = await read_failures(basis.store, key, token)
    return failed[-1] if failed else None


def unread_key(plan: Digest, episode: EpisodeIndex, name: str) -> Digest:
    """Under which failures of a result are counted while the key of the result is not known."""
    return digest_json({"plan": plan, "episode": int(episode), "module": name})
