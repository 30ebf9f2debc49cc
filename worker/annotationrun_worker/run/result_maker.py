"""The result of one module for one episode: staged already, another worker's to make, or made here."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, Protocol

from annotationrun_worker.annotate.context import (
    LOOKS_AT_ONCE,
    EffectiveTask,
    EpisodeContext,
    SubtaskStart,
)
from annotationrun_worker.annotate.prompts import Prompts
from annotationrun_worker.dataset.records import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import GivenUpError
from annotationrun_worker.frames.provider import FrameProvider
from annotationrun_worker.rows import ResultName
from annotationrun_worker.run.existing_rows import ExistingRows
from annotationrun_worker.run.keys import ResultIdentity
from annotationrun_worker.run.modules import Module
from annotationrun_worker.staging.claims import Claims
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.failures import count_failures, read_failures, record_failure
from annotationrun_worker.staging.results import ModuleResult, read_result, stage_result
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.ask import Asker

LOOK_AGAIN_SECONDS: Final = 5.0
"""Between two looks at a result, while the model server is not there."""


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
    looking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LOOKS_AT_ONCE))
    """Holds back decoding: what waits for an answer is encoded, and small."""


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
    _at_work: dict[ResultName, Digest] = field(default_factory=dict)
    """Keys of what is claimed."""

    async def make(self, module: Module[ResultName], known: Known) -> Made | Left:
        """The result of ``module``, staged or new, unless another worker is at it.

        Raises:
            GivenUpError: it failed as often as it may.
            ServerNotReadyError: the model server was not there in time.
            DatasetError, AnswerError, RequestFailedError: it failed now; see ``record_failure``.
        """
        basis, store = self.basis, self.basis.store
        fingerprint = await asyncio.to_thread(basis.episodes.fingerprint, self.episode, module)
        key = self._identity(module, fingerprint, known.digests).key()
        staged = await self._staged(module.name, key)
        if staged is not None:
            return staged
        failed = await self._failed_attempts(key)
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
        earlier = await count_failures(store, key) if failed or basis.policy.retry_token else 0
        asker = replace(self.worker.asker, attempt=earlier)
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
        rows, holes = await module.annotate(context)
        result = ModuleResult(module.name, key, tuple(rows), tuple(asdict(hole) for hole in holes))
        return Made(result, is_new=True)

    async def _staged(self, name: ResultName, key: Digest) -> Made | None:
        staged = await read_result(self.basis.store, name, key)
        return None if staged is None else Made(staged, is_new=False)

    async def _failed_attempts(self, key: Digest) -> int:
        policy = self.basis.policy
        failed = await read_failures(self.basis.store, key, policy.retry_token)
        if len(failed) >= policy.attempts:
            raise GivenUpError(failed[-1].cause, len(failed))
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
        return await stage_result(self.basis.store, result)

    async def record_failure(self, name: ResultName, error: Exception) -> int:
        """Note that ``name`` failed; the number of its failed attempts under the run's retry token.

        What failed before it was claimed has no key, and no note.
        """
        key = self._at_work.get(name)
        if key is None:
            return 1
        return await record_failure(self.basis.store, key, self.basis.policy.retry_token, str(error))

    async def release(self) -> None:
        """Let go what was claimed."""
        if self.worker is not None:
            for name in list(self._at_work):
                await self.worker.claims.release(self._at_work.pop(name))

    def _identity(
        self, module: Module[ResultName], fingerprint: Digest, builds_on: Sequence[Digest]
    ) -> ResultIdentity:
        basis = self.basis
        return ResultIdentity(
            module=module.name,
            fingerprint=fingerprint,
            settings=module.settings,
            model=basis.model,
            prompts=module.prompts,
            seed=basis.seed,
            output_language=basis.prompts.output_language,
            builds_on=builds_on,
        )
