"""The steps of a run on one machine, each as one call."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import PROGRESS_PATH
from annotationrun_worker.errors import IncompleteError, TooManyFailedError
from annotationrun_worker.frames.provider import FrameCounts
from annotationrun_worker.merge.folder import MergeResult
from annotationrun_worker.rows import ResultName
from annotationrun_worker.run.annotate import AnnotateStep, Progress
from annotationrun_worker.run.estimate import Estimate, estimate_run
from annotationrun_worker.run.merge import merge
from annotationrun_worker.run.opening import (
    LocalRun,
    OpenDataset,
    make_sampling,
    open_dataset,
    open_marks,
    open_step,
)
from annotationrun_worker.run.plan import RunPlan, load_plan, make_plan
from annotationrun_worker.run.progress import StoreProgress, serve_progress
from annotationrun_worker.run.report import AnnotateReport, failure_text, missing_text
from annotationrun_worker.run.result_maker import Worker
from annotationrun_worker.run.workers import WorkerPool
from annotationrun_worker.staging.claims import Claims
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.heartbeats import Heartbeat, Liveness
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.client import ServerSettings, Usage, VlmClient, sum_usages

REPORT_FORMAT: Final = 1
USAGE_SECONDS: Final = 1.0
"""Between two times that usage is told."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a run goes."""

    on_episode: Progress
    on_usage: Callable[[Mapping[str, Usage]], None] = lambda usage: None
    """By kind of question, since the start."""
    say: Callable[[str], None] = lambda text: None
    """Told in words what is waited for, and where progress is told."""


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a run would do."""

    run: LocalRun
    digest: Digest
    """Of the staged plan."""
    plan: RunPlan
    estimates: Mapping[ResultName, Estimate]
    """By module, of all episodes, as if nothing were staged."""
    pending: int
    """Episodes that may lack a result; the others were done for this very plan."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    run: LocalRun
    plan: Digest
    episodes: int
    annotated: AnnotateReport
    usage: Mapping[str, Usage]
    """By kind of question."""
    frames: FrameCounts
    merge: MergeResult | None = None
    """``None``: nothing was merged."""
    fault: IncompleteError | None = None
    """Why nothing was merged, or not all was annotated."""

    def to_value(self) -> dict[str, Any]:
        """As it stands in a report file: JSON values."""
        annotated = self.annotated
        return {
            "format": REPORT_FORMAT,
            "plan": self.plan,
            "staging": str(self.run.places.staging),
            "output": str(self.run.places.output),
            "exitCode": int(ExitCode.OK if self.fault is None else ExitCode.INCOMPLETE),
            "episodes": self.episodes,
            **annotated.to_value(),
            "usage": {kind: asdict(usage) for kind, usage in sorted(self.usage.items())},
            "merge": None
            if self.merge is None
            else {
                "digest": self.merge.digest,
                "unchanged": self.merge.unchanged,
                "filesWritten": self.merge.files_written,
                "bytesWritten": self.merge.bytes_written,
            },
        }


def plan_run(run: LocalRun) -> PlanReport:
    """Plan ``run``: nothing is asked, nothing is decoded.

    Raises:
        AnnotationRunError: what would stop the run before its first question.
    """
    dataset = open_dataset(run)
    estimates = estimate_run(run.spec, dataset.chosen, dataset.features)
    digest, plan = asyncio.run(make_plan(run, dataset))
    pending = set(map(int, plan.indices)) - open_marks(run, digest).done_now()
    return PlanReport(run, digest, plan, estimates, len(pending))


def annotate_run(
    run: LocalRun, plan_digest: Digest | None, listener: Listener, progress_port: int | None = None
) -> RunReport:
    """Make the results that are missing and nobody else is at; merge nothing.

    Args:
        run: the run.
        plan_digest: of its plan, if that is staged already.
        listener: told how it goes.
        progress_port: at which ``GET /progress`` is answered meanwhile; ``None``: nowhere.

    Raises:
        AnnotationRunError: what stops the step; a fault of single episodes stands in the report.
    """
    dataset = open_dataset(run)
    digest, plan = asyncio.run(_plan(run, dataset, plan_digest))
    marks = open_marks(run, digest)
    with (
        _progress_told(progress_port, StoreProgress(marks, plan.indices), listener.say),
        open_step(run, dataset, marks) as step,
    ):
        usage = asyncio.run(_annotate(step, run, plan, listener, waits=False))
        frames = step.annotator.basis.frames.counts
    fault = _too_many_failures(step, plan)
    return RunReport(run, digest, len(plan.indices), step.report, usage, frames, fault=fault)


def merge_run(run: LocalRun, progress: Progress) -> RunReport:
    """Merge what is staged; nothing is asked.

    Raises:
        AnnotationRunError: what stops the step; missing episodes stand in the report.
    """
    dataset = open_dataset(run)
    digest, plan = asyncio.run(make_plan(run, dataset))
    with open_step(run, dataset) as step:
        asyncio.run(step.run(plan.indices, None, progress))
        frames = step.annotator.basis.frames.counts
    return _merged(step, RunReport(run, digest, len(plan.indices), step.report, {}, frames), plan)


def run_local(run: LocalRun, progress: Progress, pool: WorkerPool | None = None) -> RunReport:
    """Annotate the dataset of ``run`` and write the annotated one.

    With a ``pool`` its processes make the results; what they leave is made here.

    Raises:
        AnnotationRunError: what stops a run; too many failed episodes stand in the report.
    """
    dataset = open_dataset(run)
    digest, plan = asyncio.run(make_plan(run, dataset))
    by_pool = pool.run(digest, progress) if pool else {}
    with open_step(run, dataset) as step:
        here = asyncio.run(_annotate(step, run, plan, Listener(progress), waits=True))
        frames = step.annotator.basis.frames.counts
    usage = sum_usages([by_pool, here])
    if pool:
        step.report.count_pool(pool.made, pool.made_twice, pool.deaths)
    return _merged(step, RunReport(run, digest, len(plan.indices), step.report, usage, frames), plan)


@contextmanager
def _progress_told(port: int | None, progress: StoreProgress, say: Callable[[str], None]) -> Iterator[None]:
    if port is None:
        yield
        return
    with serve_progress(port, progress) as listening:
        say(f"progress at port {listening}, {PROGRESS_PATH}")
        yield


async def _plan(run: LocalRun, dataset: OpenDataset, digest: Digest | None) -> tuple[Digest, RunPlan]:
    if digest is None:
        return await make_plan(run, dataset)
    return digest, await load_plan(run, digest)


async def _annotate(
    step: AnnotateStep, run: LocalRun, plan: RunPlan, listener: Listener, *, waits: bool
) -> Mapping[str, Usage]:
    spec, store = run.spec, step.annotator.basis.store
    client = VlmClient(
        ServerSettings(
            base_urls=run.places.endpoints,
            model=spec.model.id,
            request_timeout_seconds=spec.model.request_timeout_seconds,
            requests_in_flight=spec.workers.request_concurrency,
            structured_outputs=spec.model.structured_outputs,
            context_tokens=spec.model.context_tokens,
            start_timeout_seconds=run.start_timeout_seconds,
        ),
        run.api_key,
        listener.say,
    )
    telling = asyncio.create_task(_tell_usage(client, listener))
    try:
        async with Heartbeat(store) as heartbeat:
            asker = Asker(client, store, make_sampling(spec), spec.model.revision)
            worker = Worker(asker, Claims(store, heartbeat.me, Liveness(store)))
            await step.run(plan.indices, worker, listener.on_episode, waits=waits)
    finally:
        telling.cancel()
        listener.on_usage(client.usage)
        await client.close()
    return dict(client.usage)


async def _tell_usage(client: VlmClient, listener: Listener) -> None:
    told = 0
    while True:
        await asyncio.sleep(USAGE_SECONDS)
        requests = sum(usage.requests for usage in client.usage.values())
        if requests != told:
            listener.on_usage(client.usage)
            told = requests


def _merged(step: AnnotateStep, report: RunReport, plan: RunPlan) -> RunReport:
    fault: IncompleteError | None = _too_many_failures(step, plan)
    if fault is None and step.report.left:
        fault = IncompleteError(missing_text(step.report, report.episodes))
    if fault is not None:
        return replace(report, fault=fault)
    return replace(report, merge=merge(report.run, plan, step))


def _too_many_failures(step: AnnotateStep, plan: RunPlan) -> TooManyFailedError | None:
    if not step.has_too_many_failures:
        return None
    return TooManyFailedError(failure_text(step.report, len(plan.indices), step.limits.failures))
