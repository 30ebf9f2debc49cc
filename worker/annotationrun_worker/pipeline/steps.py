"""The steps of a run, each as one call, and what they tell the operator.

The steps of a run on one machine, each as one call.

What the steps tell the operator of a cluster, made of what they did.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

from annotationrun_api import status
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.spec import RunSpec
from annotationrun_api.step_results import PROGRESS_PATH, MergeOutcome, PlanResult
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.errors import IncompleteError, TooManyFailedError
from annotationrun_worker.language.rows import ResultName
from annotationrun_worker.lasting_imports import lasting_imports
from annotationrun_worker.modules.base import override_warnings
from annotationrun_worker.output.merge import MergeResult
from annotationrun_worker.pipeline.annotate import AnnotateStep, Progress
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.estimate import Estimate, estimate_run
from annotationrun_worker.pipeline.merge import merge
from annotationrun_worker.pipeline.plan import RunPlan, StagedPlan, load_plan, make_plan, missing_results
from annotationrun_worker.pipeline.preflight import check_rights_to_publish
from annotationrun_worker.pipeline.progress import (
    Account,
    StoreProgress,
    WorkerMetrics,
    cost_of,
    serve_progress,
)
from annotationrun_worker.pipeline.report import AnnotateReport, EpisodeFailure, failure_text, missing_text
from annotationrun_worker.pipeline.result_maker import Worker
from annotationrun_worker.pipeline.wiring import (
    LocalRun,
    OpenDataset,
    make_sampling,
    open_dataset,
    open_marks,
    open_staging,
    open_step,
)
from annotationrun_worker.pipeline.workers import WorkerPool
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.leases import Claims, Heartbeat, Liveness
from annotationrun_worker.staging.progress import WorkerUsage, read_usage, usage_path, usage_staged
from annotationrun_worker.video.provider import FrameCounts, FrameProvider
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.server import ServerFindings, ServerSettings, Usage, sum_usages

REPORT_FORMAT: Final = 1
COUNTS_SECONDS: Final = 1.0
"""Between two times that usage and frames are told."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how a run goes."""

    on_episode: Progress
    on_usage: Callable[[Mapping[str, Usage]], None] = lambda usage: None
    """By kind of question, since the start."""
    on_frames: Callable[[FrameCounts], None] = lambda counts: None
    """Since the start."""
    on_server: Callable[[ServerFindings], None] = lambda findings: None
    """What the model server was found to take; once more at the end."""
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
    missing: Mapping[EpisodeIndex, Collection[ResultName]]
    """Results that are not staged, or are to be asked for again, of each episode that lacks any."""
    open_estimates: Mapping[ResultName, Estimate]
    """Of these alone."""
    warnings: Sequence[str] = ()
    """What is doubtful, and goes on all the same."""


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
    """By this process and the workers that it started."""
    used: WorkerUsage = field(default_factory=WorkerUsage)
    """By this process and the workers that it started; of a merge, by all workers of its account."""
    video_seconds: float = 0.0
    """Of the episodes with all their results."""
    merge: MergeResult | None = None
    """``None``: nothing was merged."""
    fault: IncompleteError | None = None
    """Why nothing was merged, or not all was annotated."""

    @property
    def cost(self) -> RunUsage:
        """What was used, and for each hour of video."""
        return cost_of(self.used, self.video_seconds)

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
            "unansweredByModule": dict(annotated.unanswered_by_module),
            "frames": {
                "asked": self.frames.asked,
                "decoded": self.frames.decoded,
                "fromCache": self.frames.from_cache,
                "failed": self.frames.failed,
                "fallbackFiles": self.frames.fallback_files,
            },
            "usage": {
                kind: {"requests": usage.requests, **asdict(usage)}
                for kind, usage in sorted(self.usage.items())
            },
            "cost": {
                **self.cost.model_dump(mode="json", by_alias=True),
                "workerSeconds": self.used.worker_seconds,
                "tokensPerSecond": self.used.tokens_per_second,
            },
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
    check_rights_to_publish(run)
    with open_dataset(run) as dataset:
        staged = asyncio.run(make_plan(run, dataset))
        dataset = dataset.with_tasks(staged.findings.tasks)
        chosen, features = dataset.chosen, dataset.features
        with open_step(run, dataset, staged.digest) as step:
            missing = asyncio.run(missing_results(step.annotator, chosen, staged.findings))

        def is_missing(episode: EpisodeSummary, name: ResultName) -> bool:
            return name in missing[episode.index]

        return PlanReport(
            run, staged.digest, staged.plan,
            estimates=estimate_run(run.spec, chosen, features),
            missing=missing,
            open_estimates=estimate_run(
                run.spec, [episode for episode in chosen if episode.index in missing], features, is_missing
            ),
            warnings=(*run.warnings, *override_warnings(run.spec.prompts), *staged.findings.warnings),
        )  # fmt: skip


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
    with open_dataset(run) as dataset:
        staged = asyncio.run(_plan(run, dataset, plan_digest))
        digest, plan = staged.digest, staged.plan
        dataset = dataset.with_tasks(staged.findings.tasks)
        marks = open_marks(run, digest)
        account = Account(run.account or digest, run.gpus)
        with open_step(run, dataset, digest, marks) as step:
            step.report.warnings += staged.findings.warnings
            basis = step.annotator.basis
            metrics = WorkerMetrics(account, step.report, lambda: basis.frames.counts)
            progress = StoreProgress(marks, plan.indices, lambda: step.report.server)
            with _told(progress_port, progress, metrics, listener.say):
                usage = asyncio.run(_annotate(step, run, plan, listener, account, waits=False))
            frames = basis.frames.counts
        fault = _too_many_failures(step, plan)
        return RunReport(
            run, digest, len(plan.indices), step.report, usage, frames,
            used=account.read(), video_seconds=_video_seconds(step, plan, dataset), fault=fault,
        )  # fmt: skip


def merge_run(run: LocalRun, progress: Progress) -> RunReport:
    """Merge what is staged; nothing is asked.

    Raises:
        AnnotationRunError: what stops the step; missing episodes stand in the report.
    """
    with open_dataset(run) as dataset:
        staged = asyncio.run(make_plan(run, dataset))
        digest, plan = staged.digest, staged.plan
        dataset = dataset.with_tasks(staged.findings.tasks)
        with open_step(run, dataset, digest) as step:
            step.report.warnings += staged.findings.warnings
            asyncio.run(step.run(plan.indices, None, progress))
            frames = step.annotator.basis.frames.counts
        used = asyncio.run(read_usage(open_staging(run), run.account or digest))
        report = RunReport(
            run, digest, len(plan.indices), step.report, {}, frames,
            used=used, video_seconds=_video_seconds(step, plan, dataset),
        )  # fmt: skip
        return _merged(step, report, plan, dataset)


def run_local(run: LocalRun, progress: Progress, pool: WorkerPool | None = None) -> RunReport:
    """Annotate the dataset of ``run`` and write the annotated one.

    With a ``pool`` its processes make the results; what they leave is made here.

    Raises:
        AnnotationRunError: what stops a run; too many failed episodes stand in the report.
    """
    check_rights_to_publish(run)
    with open_dataset(run) as dataset:
        staged = asyncio.run(make_plan(run, dataset))
        digest, plan = staged.digest, staged.plan
        dataset = dataset.with_tasks(staged.findings.tasks)
        account = Account(run.account or digest, run.gpus)
        by_pool = pool.run(digest, progress) if pool else {}
        with open_step(run, dataset, digest) as step:
            step.report.warnings += staged.findings.warnings
            here = asyncio.run(_annotate(step, run, plan, Listener(progress), account, waits=True))
            frames = step.annotator.basis.frames.counts
        account.asked = usage = sum_usages([by_pool, here])
        if pool:
            step.report.count_pool(pool.made, pool.made_twice, pool.deaths)
            step.report.server = step.report.server or pool.server
            frames += pool.frames
        report = RunReport(
            run, digest, len(plan.indices), step.report, usage, frames,
            used=account.read(), video_seconds=_video_seconds(step, plan, dataset),
        )  # fmt: skip
        return _merged(step, report, plan, dataset)


def _video_seconds(step: AnnotateStep, plan: RunPlan, dataset: OpenDataset) -> float:
    """Of the episodes with all their results."""
    return sum(length for index, length in plan.episodes if index in step.keys) / dataset.fps


@contextmanager
def _told(
    port: int | None, progress: StoreProgress, metrics: WorkerMetrics, say: Callable[[str], None]
) -> Iterator[None]:
    if port is None:
        yield
        return
    with serve_progress(port, progress, metrics) as listening:
        say(f"progress at port {listening}, {PROGRESS_PATH}")
        yield


async def _plan(run: LocalRun, dataset: OpenDataset, digest: Digest | None) -> StagedPlan:
    if digest is None:
        return await make_plan(run, dataset)
    return StagedPlan(digest, await load_plan(run, dataset, digest))


async def _annotate(
    step: AnnotateStep, run: LocalRun, plan: RunPlan, listener: Listener, account: Account, *, waits: bool
) -> Mapping[str, Usage]:
    spec, store, frames = run.spec, step.annotator.basis.store, step.annotator.basis.frames

    def found(findings: ServerFindings) -> None:
        step.report.server = findings
        listener.on_server(findings)

    with lasting_imports():  # of openai, which takes as long as all else; only who asks needs it
        from annotationrun_worker.vlm.client import VlmClient
    client = VlmClient(
        ServerSettings(
            base_urls=run.places.endpoints,
            model=spec.model.id,
            request_timeout_seconds=spec.model.request_timeout_seconds,
            requests_in_flight=spec.workers.request_concurrency,
            structured_outputs=spec.model.structured_outputs,
            context_tokens=spec.model.context_tokens,
            start_timeout_seconds=run.start_timeout_seconds,
            media_folder=run.media_folder,
        ),
        run.api_key,
        listener.say,
        step.server_needs,
        found,
    )
    account.asked = client.usage
    telling = asyncio.create_task(_tell_counts(client.usage, frames, listener))
    try:
        async with (
            Heartbeat(store) as heartbeat,
            usage_staged(store, usage_path(account.name, heartbeat.me), account.read),
        ):
            asker = Asker(client, store, make_sampling(spec), run.model_revision.name)
            worker = Worker(asker, Claims(store, heartbeat.me, Liveness(store)))
            await step.run(plan.indices, worker, listener.on_episode, waits=waits)
        await client.read_server_counts()
    finally:
        telling.cancel()
        listener.on_usage(client.usage)
        listener.on_frames(frames.counts)
        await client.close()
    return dict(client.usage)


async def _tell_counts(usages: Mapping[str, Usage], frames: FrameProvider, listener: Listener) -> None:
    """Tell both again and again, each when it has grown."""
    told_requests, told_frames = 0, FrameCounts()
    while True:
        await asyncio.sleep(COUNTS_SECONDS)
        requests, counts = sum(usage.requests for usage in usages.values()), frames.counts
        if requests != told_requests:
            listener.on_usage(usages)
            told_requests = requests
        if counts != told_frames:
            listener.on_frames(counts)
            told_frames = counts


def _merged(step: AnnotateStep, report: RunReport, plan: RunPlan, dataset: OpenDataset) -> RunReport:
    fault: IncompleteError | None = _too_many_failures(step, plan)
    if fault is None and step.report.left:
        fault = IncompleteError(missing_text(step.report, report.episodes))
    if fault is not None:
        return replace(report, fault=fault)
    return replace(report, merge=merge(report.run, dataset, plan, step, report.cost))


def _too_many_failures(step: AnnotateStep, plan: RunPlan) -> TooManyFailedError | None:
    if not step.has_too_many_failures:
        return None
    return TooManyFailedError(failure_text(step.report, len(plan.indices), step.limits.failures))


def plan_result(report: PlanReport) -> PlanResult:
    """Of a plan that is staged."""
    source = report.run.places.source
    return PlanResult(
        plan=report.digest,
        episodes=len(report.plan.episodes),
        pending=len(report.missing),
        source_commit=source.revision if isinstance(source, HubPlace) else "",
        model_commit=report.run.model_revision.commit,
    )


def merge_outcome(report: RunReport) -> MergeOutcome:
    """Of a merge step that has merged, or found that it can't yet; the first failures in order of episode."""
    annotated, merge = report.annotated, report.merge
    published = None if merge is None else merge.published
    failed = len(annotated.failed_episodes)
    failures = sorted(annotated.failures, key=lambda failure: (failure.episode, failure.module))
    return MergeOutcome(
        outcome=_outcome(report),
        plan=report.plan,
        total=report.episodes,
        done=annotated.episodes_done,
        failed=failed,
        unanswered=len(annotated.unanswered),
        results=annotated.results_made + annotated.results_reused + annotated.results_of_left,
        merge_digest="" if merge is None else merge.digest,
        place="" if merge is None else _place(report),
        commit="" if published is None else published.commit,
        previous_commit="" if published is None else published.previous_commit,
        pull_request="" if published is None else published.pull_request,
        labelled_episodes=status.LabelledEpisodes.model_validate(
            {} if merge is None else dict(merge.labelled_episodes)
        ),
        usage=report.cost,
        failures=tuple(map(_shown_failure, failures[: status.SHOWN_FAILURES])),
    )


def _place(report: RunReport) -> str:
    is_trial = report.run.limit is not None
    return f"folder {report.run.places.output}" if is_trial else output_place(report.run.spec)


def output_place(spec: RunSpec) -> str:
    """Where the annotated dataset lies, for people: the repository or folder as the manifest names it."""
    output = spec.output
    if output.repo_id is not None:
        return f"dataset {output.repo_id}, branch {output.branch}"
    if output.volume is None:
        return f"folder {output.path}"
    folder = "/".join(part.strip("/") for part in (output.volume.sub_path, output.path) if part)
    return f"volume {output.volume.claim_name}, folder {folder}"


def _outcome(report: RunReport) -> Literal["Published", "Unchanged", "Missing", "TooManyFailed"]:
    if report.merge is not None:
        return "Unchanged" if report.merge.unchanged else "Published"
    return "TooManyFailed" if isinstance(report.fault, TooManyFailedError) else "Missing"


def _shown_failure(failure: EpisodeFailure) -> status.EpisodeFailure:
    return status.EpisodeFailure(
        episode_index=failure.episode,
        module=failure.module,
        attempts=failure.attempts,
        time=datetime.fromisoformat(failure.time) if failure.time else None,
        cause=failure.cause.encode(errors="backslashreplace").decode(),  # names of files may be no Unicode
    )
