"""Reconciling a run: observe it afresh, decide, apply the decision."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from annotationrun_api.step_results import WorkerProgress
from annotationrun_operator.cluster.api import ClusterApi
from annotationrun_operator.cluster.apply import Applied, apply
from annotationrun_operator.cluster.observe import (
    claim_names,
    gpu_resource_of,
    is_job_of,
    is_pod_of,
    pods_to_ask,
    silent_job,
    view_claim,
    view_job,
    view_job_events,
    view_pod,
    view_run,
)
from annotationrun_operator.cluster.progress_client import ProgressClient
from annotationrun_operator.cluster.watches import Watched, WatchRecord
from annotationrun_operator.core.status import Decision
from annotationrun_operator.errors import ApiNotFoundError, ProgressUnavailableError
from annotationrun_operator.observation import (
    ClaimView,
    JobEvent,
    JobView,
    Observation,
    PodView,
    Refusal,
    RunKey,
    RunObject,
)
from annotationrun_operator.telemetry.metrics import Metrics

Decide = Callable[[Observation, datetime], Decision]

_PROGRESS_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is kept of a run from one time to the next. A restarted operator asks, or tries, again."""

    uid: str
    refusal: Refusal | None = None
    asked_at: float | None = None
    """Loop time."""
    asked_pod: str = ""
    progress: WorkerProgress | None = None
    progress_error: str = ""


class Reconciler:
    """Reconciles runs; that no run is reconciled twice at a time is for the queue to see to."""

    def __init__(
        self, api: ClusterApi, progress: ProgressClient, decide: Decide, record: WatchRecord, metrics: Metrics
    ) -> None:
        self._api = api
        self._progress = progress
        self._decide = decide
        self._record = record
        self._metrics = metrics
        self._memories: dict[RunKey, _Memory] = {}

    async def reconcile(self, key: RunKey) -> float | None:
        """Reconcile a run; returns seconds until the next time if nothing changes, None if that is all.

        Raises:
            AnnotationRunError: it could not be reconciled; `errors.retry_seconds` says when to try again.
        """
        clock = asyncio.get_running_loop().time
        began, error = clock(), None
        try:
            return await self._reconcile(key)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._metrics.count_reconcile(clock() - began, error)

    async def _reconcile(self, key: RunKey) -> float | None:
        try:
            run = view_run(await self._api.get_run(key))
        except ApiNotFoundError:
            self._forget(key)
            return None
        memory = self._memories.get(key)
        if memory is None or memory.uid != run.uid:
            memory = _Memory(run.uid)
        observation, memory = await self._observe(run, memory)
        self._memories[key] = memory
        now = datetime.now(UTC)
        decision = self._decide(observation, now)
        applied = await apply(self._api, run, decision, now)
        self._metrics.show_run(key, decision.status, now)
        self._memories[key] = replace(memory, refusal=_refusal_after(memory.refusal, applied))
        if applied.refusal is not None and not _is_same(applied.refusal, memory.refusal):
            return 0.0  # the status has to tell of it
        return decision.recheck_seconds

    async def _observe(self, run: RunObject, memory: _Memory) -> tuple[Observation, _Memory]:
        jobs = await self._jobs_of(run)
        pods = await self._pods_of(run)
        claims = {}
        for name in claim_names(run.manifest):
            if (claim := await self._claim(run, name)) is not None:
                claims[name] = claim
        warnings: tuple[JobEvent, ...] = ()
        if (silent := silent_job(jobs, pods)) is not None:
            warnings = view_job_events(await self._api.list_warnings(run.namespace, silent.uid))
        memory = await self._ask(memory, pods_to_ask(jobs, pods))
        observation = Observation(
            run=run,
            jobs=jobs,
            pods=pods,
            claims=claims,
            job_events=warnings,
            progress=memory.progress,
            progress_error=memory.progress_error,
            refusal=memory.refusal,
        )
        return observation, memory

    async def _jobs_of(self, run: RunObject) -> tuple[JobView, ...]:
        versions, jobs = {}, []
        async for raw in self._api.list_jobs(run.namespace, run.uid):
            versions[raw["metadata"]["uid"]] = raw["metadata"]["resourceVersion"]
            if is_job_of(raw, run.uid):
                jobs.append(view_job(raw))
        self._record.listed(Watched.JOBS, RunKey(run.namespace, run.name), versions)
        return tuple(jobs)

    async def _pods_of(self, run: RunObject) -> tuple[PodView, ...]:
        versions, pods = {}, []
        gpu_resource = gpu_resource_of(run.manifest)
        async for raw in self._api.list_pods(run.namespace, run.uid):
            versions[raw["metadata"]["uid"]] = raw["metadata"]["resourceVersion"]
            if is_pod_of(raw, run.uid):
                pods.append(view_pod(raw, gpu_resource))
        self._record.listed(Watched.PODS, RunKey(run.namespace, run.name), versions)
        return tuple(pods)

    async def _claim(self, run: RunObject, name: str) -> ClaimView | None:
        """None says that there is no such claim."""
        try:
            return view_claim(await self._api.get_claim(run.namespace, name))
        except ApiNotFoundError:
            return None

    async def _ask(self, memory: _Memory, candidates: tuple[PodView, ...]) -> _Memory:
        """Ask one worker, each time the next of them, so that one that hangs does not hide the others."""
        if not candidates:
            return replace(memory, progress=None, progress_error="")
        now = asyncio.get_running_loop().time()
        if memory.asked_at is not None and now - memory.asked_at < _PROGRESS_INTERVAL_SECONDS:
            return memory
        pod = next((pod for pod in candidates if pod.name > memory.asked_pod), candidates[0])
        memory = replace(memory, asked_at=now, asked_pod=pod.name)
        try:
            return replace(memory, progress=await self._progress.ask(pod.ip), progress_error="")
        except ProgressUnavailableError as error:
            return replace(memory, progress=None, progress_error=str(error))

    def _forget(self, key: RunKey) -> None:
        self._memories.pop(key, None)
        self._metrics.forget(key)
        for kind in Watched:
            self._record.listed(kind, key, {})


def _refusal_after(before: Refusal | None, applied: Applied) -> Refusal | None:
    if applied.refusal is not None:
        return applied.refusal
    return None if applied.has_created else before


def _is_same(one: Refusal, other: Refusal | None) -> bool:
    return other is not None and replace(one, time=other.time) == other
