"""The steps of a run, one Job each, from the plan to the merge, and how a run ends."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from annotationrun_api.conditions import ConditionType
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import RunSpec
from annotationrun_api.status import EpisodeCounts, Publication, latest_failures
from annotationrun_api.step_results import MergeOutcome, PlanResult
from annotationrun_operator.core.accounting import (
    finish_progress,
    set_active,
    set_waiting,
    take_progress,
    take_usage,
)
from annotationrun_operator.core.outcomes import (
    Failure,
    has_started,
    job_failure,
    merge_outcome,
    plan_result,
    pod_failure,
    pods_of,
    prefetch_result,
    refusal_reason,
    why_waiting,
)
from annotationrun_operator.core.status import (
    Announcement,
    CreateJob,
    Decision,
    ReconcileContext,
    State,
    StatusBuilder,
    with_remedy,
)
from annotationrun_operator.manifests.jobs import EXIT_POLICIES, JobPlan, job_name, make_job
from annotationrun_operator.manifests.pods import WORKER_CONTAINER
from annotationrun_operator.observation import JobView, digest_of, fetched_from

PUBLISHED = ("Published", "Unchanged")


def record_publication(run: ReconcileContext, job: JobView) -> MergeOutcome | None:
    """Note what an ended merge published; its outcome, or None where it tells none."""
    builder = run.builder
    outcome = merge_outcome(job, builder.seen.pods)
    if outcome is None or outcome.outcome not in PUBLISHED:
        return outcome
    known = builder.status.published
    if known is None or known.merge_digest != outcome.merge_digest or known.place != outcome.place:
        builder.set(
            published=Publication(
                merge_digest=outcome.merge_digest,
                place=outcome.place,
                commit=outcome.commit,
                previous_commit=outcome.previous_commit,
                pull_request=outcome.pull_request,
                failed_episodes=outcome.failed,
                labelled_episodes=outcome.labelled_episodes,
                time=builder.now,
            )
        )
    if outcome.outcome == "Published" and outcome.commit and _is_in_place(run.manifest.spec):
        # The plan is of this commit too, and only on top of this one can be pushed again.
        attempt = builder.status.plan.attempt
        builder.set_step(Step.PLAN, source_commit=outcome.commit, ended_attempt=attempt)
    return outcome


def _is_in_place(spec: RunSpec) -> bool:
    """Whether the commit goes on top of the source itself."""
    source, output = spec.source, spec.output
    is_same = source.repo_id == output.repo_id and source.revision == output.branch
    return source.repo_id is not None and is_same and not output.pull_request


def take_counts(builder: StatusBuilder, outcome: MergeOutcome) -> EpisodeCounts:
    """Take over what the merge found of the episodes."""
    counts = EpisodeCounts(
        total=outcome.total, done=outcome.done, failed=outcome.failed, unanswered=outcome.unanswered
    )
    builder.set(episodes=counts, failures=latest_failures(builder.status.failures, outcome.failures))
    return counts


def complete(run: ReconcileContext, outcome: MergeOutcome) -> Decision:
    """The dataset is published."""
    builder = run.builder
    finish_progress(builder, take_counts(builder, outcome))
    set_active(builder, is_active=False)
    builder.set(completion_time=builder.now, ended_input=run.inputs.run)
    same = Reason.NOTHING_TO_DO if outcome.outcome == "Unchanged" else Reason.SUCCEEDED
    if outcome.failed:
        failed = f"{outcome.failed} of {outcome.total} episodes failed."
        builder.steps[ConditionType.ANNOTATED] = (
            True,
            Reason.COMPLETE_WITH_FAILURES,
            with_remedy(Reason.COMPLETE_WITH_FAILURES, failed),
        )
    builder.steps[ConditionType.MERGED] = (True, same, "")
    builder.steps[ConditionType.PUBLISHED] = (True, same, outcome.place)
    annotated = f"{outcome.done} of {outcome.total} episodes annotated, in {outcome.place}."
    unanswered = f" {outcome.unanswered} of the questions got no usable answer." if outcome.unanswered else ""
    message = f"{annotated}{unanswered} {builder.status.usage.text()}."
    return builder.finalize(State("Complete", Reason.COMPLETE, message))


def fail(run: ReconcileContext, failure: Failure) -> Decision:
    """The run has ended without success; it holds nothing any more, and what is staged stays."""
    builder = run.builder
    set_active(builder, is_active=False)
    for job in builder.live_jobs():
        builder.delete(job)
    builder.set(completion_time=builder.now, ended_input=run.inputs.run)
    message = with_remedy(failure.reason, failure.message)
    return builder.finalize(State("Failed", failure.reason, message))


ATTEMPTS: Final = 3
"""In a row that come to nothing, before the run is given up."""
CREATE_AGAIN_SECONDS: Final = 60.0
"""After a refusal: quotas and policies are not watched."""
PROGRESS_SECONDS: Final = 10.0
"""Between two looks at how far the workers are."""
STOPPING_SECONDS: Final = 30.0
"""Between two looks at pods that go."""
DISRUPTIONS_WITHOUT_PROGRESS: Final = 20

_STATES = {
    Step.PLAN: (Reason.PLANNING, ConditionType.PLANNED),
    Step.PREFETCH: (Reason.FETCHING_MODEL, ConditionType.ANNOTATED),
    Step.ANNOTATE: (Reason.ANNOTATING, ConditionType.ANNOTATED),
    Step.MERGE: (Reason.MERGING, ConditionType.MERGED),
}
_ENDS_THE_RUN = frozenset(
    {Reason.OUT_OF_MEMORY, *(policy.reason for policy in EXIT_POLICIES.values() if policy.ends_run)}
)
"""Failures of the annotate step after which another attempt would fail alike."""


def take_step(run: ReconcileContext) -> Decision:
    """Go on with the step that is next."""
    status = run.builder.status
    if not status.plan.digest:
        return _work(run, Step.PLAN, status.plan.input_digest, 1)
    annotate = status.annotate
    is_of_plan = annotate.input_digest == status.plan.digest
    is_annotated = is_of_plan and annotate.ended_attempt == annotate.attempt
    if status.plan.pending and not is_annotated:
        model, is_open = _wanted_model(run), is_of_plan and annotate.job_name
        if model and not is_open and not _is_fetched(run.builder, model):
            return _work(run, Step.PREFETCH, model, 1)
        return _work(run, Step.ANNOTATE, status.plan.digest, _pods(run))
    if ConditionType.ANNOTATED not in run.builder.steps:
        reason = Reason.SUCCEEDED if status.plan.pending else Reason.NOTHING_TO_DO
        run.builder.steps[ConditionType.ANNOTATED] = (True, reason, _server(run.builder))
    wanted = digest_of([status.plan.digest, run.inputs.merge, annotate.attempt])
    return _work(run, Step.MERGE, wanted, 1)


def _wanted_model(run: ReconcileContext) -> str:
    """Digest of what a prefetch Job is made from; empty where none is needed."""
    model = fetched_from(run.manifest.spec, run.builder.status.plan.model_commit)
    return digest_of(model) if model is not None else ""


def _is_fetched(builder: StatusBuilder, model: str) -> bool:
    """Whether the cache holds the model, as far as this plan has seen; what it held before may be gone."""
    prefetch = builder.status.prefetch
    return prefetch.input_digest == model and bool(prefetch.commit)


def _server(builder: StatusBuilder) -> str:
    """What the workers found at their model server, as a sentence; empty where that is not known."""
    found = builder.status.annotate.server
    return f"Model server: {found}." if found else ""


def _pods(run: ReconcileContext) -> int:
    """Workers of an attempt: no more than there are episodes for."""
    status = run.builder.status
    left = status.episodes.total - status.episodes.done - status.episodes.failed
    return max(1, min(run.manifest.spec.workers.parallelism, status.plan.pending, left or 1))


def _work(run: ReconcileContext, step: Step, wanted: str, pods: int) -> Decision:
    """See to the Job of a step, which is made from what ``wanted`` is the digest of."""
    builder = run.builder
    current = builder.step(step)
    if current.input_digest != wanted:  # what was done by other settings is over
        builder.set_step(step, input_digest=wanted, job_name="", **_NOTHING_DONE.get(step, {}))
        current = builder.step(step)
    others = [job for job in builder.live_jobs() if job.name != current.job_name]
    if others or (step is Step.MERGE and _merge_pods_go(builder, current.job_name)):
        for other in others:
            builder.delete(other)
        builder.recheck(STOPPING_SECONDS)
        return builder.finalize(State("Working", Reason.STOPPING, Reason.STOPPING.happened))
    if not current.job_name:
        return _open_attempt(run, step, pods)
    job = next((job for job in builder.seen.jobs if job.name == current.job_name), None)
    if job is None:
        return _create(run, step, pods)
    if job.is_deleting:
        return builder.finalize(State("Working", Reason.STOPPING, Reason.STOPPING.happened))
    if job.has_ended:
        return _take_end(run, step, job)
    return _watch(run, step, job)


def _merge_pods_go(builder: StatusBuilder, job: str) -> bool:
    """Whether another merge may still be writing."""
    return any(
        pod.step is Step.MERGE and pod.job_name != job and not pod.has_ended for pod in builder.seen.pods
    )


def _open_attempt(run: ReconcileContext, step: Step, pods: int) -> Decision:
    builder = run.builder
    attempt = builder.step(step).attempt + 1
    name = job_name(builder.seen.run, step, builder.status.plan.digest, attempt)
    builder.set_step(step, attempt=attempt, job_name=name)
    if step is Step.ANNOTATE:
        before = builder.status.episodes.done + builder.status.episodes.failed
        builder.set_step(step, episodes_before=before, server="")
    if builder.status.start_time is None:
        builder.set(start_time=builder.now)
    builder.announcements.append(Announcement("Normal", Reason.JOB_CREATED, f"Job {name}"))
    return _create(run, step, pods)


def creation(run: ReconcileContext, step: Step, pods: int) -> CreateJob:
    """Of the Job of the step's attempt that stands in the status."""
    builder, current = run.builder, run.builder.step(step)
    status, is_fetched = builder.status, _is_fetched(builder, _wanted_model(run))
    commit = status.prefetch.commit if step is Step.ANNOTATE and is_fetched else ""
    plan = JobPlan(
        step,
        current.attempt,
        current.job_name,
        status.plan.digest,
        pods,
        source_commit=status.plan.source_commit,
        cached_commit=commit,
        model_commit=status.plan.model_commit,
    )
    return CreateJob(make_job(builder.seen.run, run.manifest, plan, builder.settings))


def _create(run: ReconcileContext, step: Step, pods: int) -> Decision:
    """Create the Job, unless the API server refused that a moment ago."""
    builder, current, refusal = run.builder, run.builder.step(step), run.builder.seen.refusal
    set_active(builder, is_active=True)
    if refusal is None or refusal.job_name != current.job_name:
        builder.actions.append(creation(run, step, pods))
        return _working(run, step, Reason.WAITING_FOR_PODS, "")
    reason = Reason.JOB_CONFLICT if refusal.is_conflict else refusal_reason(refusal.message)
    if step is Step.PLAN and reason is Reason.ADMISSION_REFUSED and refusal.code == _UNPROCESSABLE:
        return fail(run, Failure(reason, refusal.message))
    since = (builder.now - refusal.time).total_seconds()
    if since >= CREATE_AGAIN_SECONDS:
        builder.actions.append(creation(run, step, pods))
    builder.recheck(CREATE_AGAIN_SECONDS - since)
    return _await(run, step, reason, refusal.message)


_UNPROCESSABLE = 422
_NOT_OF_THE_DOWNLOAD = frozenset({Reason.OUT_OF_MEMORY})
_NOTHING_DONE: Mapping[Step, Mapping[str, object]] = {Step.PREFETCH: {"commit": ""}}
"""Fields of a step's status that are of other settings once these are."""


def _watch(run: ReconcileContext, step: Step, job: JobView) -> Decision:
    """The Job is at work, or waits for something."""
    builder, pods = run.builder, pods_of(job, run.builder.seen.pods)
    if job.is_suspended:
        set_active(builder, is_active=False)
        where = f"Queue {job.queue!r}, Job {job.name}" if job.queue else f"Job {job.name}"
        return _working(run, step, Reason.QUEUED, where)
    set_active(builder, is_active=True)
    if not has_started(pods) and not job.succeeded:
        waiting = why_waiting(pods, builder.seen.job_events)
        return _await(run, step, waiting.reason, waiting.message)
    set_waiting(builder, is_waiting=False)
    if step is not Step.ANNOTATE:
        return _working(run, step, _STATES[step][0], "")
    builder.recheck(PROGRESS_SECONDS)
    if builder.status.annotate.disruptions_without_progress >= DISRUPTIONS_WITHOUT_PROGRESS:
        count = builder.status.annotate.disruptions_without_progress
        return fail(run, Failure(Reason.NO_PROGRESS, f"{count} pods were disrupted without one more episode"))
    lost = _lost_server(run, job)
    if lost is not None:
        return fail(run, lost)
    if builder.seen.progress is not None:
        take_progress(builder, builder.seen.progress, job.created)
    elif builder.seen.progress_error:
        note = with_remedy(Reason.PROGRESS_UNAVAILABLE, builder.seen.progress_error)
        builder.steps[ConditionType.ANNOTATED] = (False, Reason.PROGRESS_UNAVAILABLE, note)
    counts = builder.status.episodes
    failed = f", {counts.failed} failed" if counts.failed else ""
    done = f"{counts.done} of {counts.total} episodes are done{failed}."
    return _working(run, step, Reason.ANNOTATING, f"{done} {_server(builder)}".strip())


def _lost_server(run: ReconcileContext, job: JobView) -> Failure | None:
    """A server that did not come up, where no other worker of the Job gets on: it would not the next time."""
    failure = None
    for pod in pods_of(job, run.builder.seen.pods):
        worker = pod.container(WORKER_CONTAINER)
        if worker is None or not pod.has_ended:
            if worker is not None and worker.is_running:
                return None
            continue
        if worker.exit_code == ExitCode.OK:
            return None
        if worker.exit_code == ExitCode.SERVER_NOT_READY:
            failure = failure or pod_failure(pod, worker)
    return failure


def _await(run: ReconcileContext, step: Step, reason: Reason, message: str) -> Decision:
    """Nothing of the step runs yet: that has a deadline."""
    limit = run.manifest.spec.start_deadline_seconds
    waited = set_waiting(run.builder, is_waiting=True)
    if waited >= limit:
        said = with_remedy(reason, message)
        return fail(run, Failure(Reason.START_DEADLINE_EXCEEDED, f"After {limit} s: {said}"))
    run.builder.recheck(limit - waited)
    return _working(run, step, reason, message)


def _working(run: ReconcileContext, step: Step, reason: Reason, message: str) -> Decision:
    condition = _STATES[step][1]
    if condition not in run.builder.steps:
        run.builder.steps[condition] = (False, Reason.IN_PROGRESS, "")
    return run.builder.finalize(State("Working", reason, with_remedy(reason, message)))


def _take_end(run: ReconcileContext, step: Step, job: JobView) -> Decision:
    set_waiting(run.builder, is_waiting=False)
    if step is Step.PLAN:
        return _take_plan(run, job)
    if step is Step.PREFETCH:
        return _take_model(run, job)
    if step is Step.ANNOTATE:
        return _take_annotated(run, job)
    return _take_merged(run, job)


def _take_plan(run: ReconcileContext, job: JobView) -> Decision:
    builder = run.builder
    if job.has_failed:
        return fail(run, job_failure(job, builder.seen.pods))
    result = plan_result(job, builder.seen.pods)
    if result is None:
        return _try_again(run, Step.PLAN, Failure(Reason.PLAN_UNREADABLE, f"The last Job is {job.name}"))
    builder.set_step(Step.PLAN, last_poll_time=builder.now)
    return go_on_with(run, result)


def go_on_with(run: ReconcileContext, plan: PlanResult) -> Decision:
    """Take a plan over, and go on with the step that is next."""
    builder = run.builder
    builder.set_step(
        Step.PLAN,
        digest=plan.plan,
        pending=plan.pending,
        source_commit=plan.source_commit,
        model_commit=plan.model_commit,
        ended_attempt=builder.status.plan.attempt,
        retries=0,
    )
    done = plan.episodes - min(plan.pending, plan.episodes)
    builder.set(episodes=EpisodeCounts(total=plan.episodes, done=done))
    model = f" The model's commit is {plan.model_commit}." if plan.model_commit else ""
    message = f"{plan.episodes} episodes, {plan.pending} of them pending.{model}"
    builder.steps[ConditionType.PLANNED] = (True, Reason.SUCCEEDED, message)
    return take_step(run)


def _take_model(run: ReconcileContext, job: JobView) -> Decision:
    builder = run.builder
    if job.has_failed:
        failure = job_failure(job, builder.seen.pods)
        is_ours = failure.reason not in _NOT_OF_THE_DOWNLOAD
        return fail(run, replace(failure, reason=Reason.MODEL_DOWNLOAD_FAILED) if is_ours else failure)
    result = prefetch_result(job, builder.seen.pods)
    if result is None:
        said = f"The prefetch Job {job.name} ended without a result that can be read"
        return _try_again(run, Step.PREFETCH, Failure(Reason.INTERNAL_ERROR, said))
    builder.set_step(Step.PREFETCH, commit=result.commit, ended_attempt=job.attempt, retries=0)
    return take_step(run)


def _take_annotated(run: ReconcileContext, job: JobView) -> Decision:
    """However the Job ended, the merge looks what there is; but for failures that would come again."""
    if job.has_failed:
        failure = job_failure(job, run.builder.seen.pods)
        if failure.reason in _ENDS_THE_RUN:
            return fail(run, failure)
    run.builder.set_step(Step.ANNOTATE, ended_attempt=job.attempt)
    return take_step(run)


def _take_merged(run: ReconcileContext, job: JobView) -> Decision:
    builder = run.builder
    outcome = record_publication(run, job)
    if outcome is None:
        if job.has_failed:
            return _plan_again(run, job_failure(job, builder.seen.pods))
        said = f"The merge Job {job.name} ended without a result that can be read"
        return _try_again(run, Step.MERGE, Failure(Reason.INTERNAL_ERROR, said))
    builder.set_step(Step.MERGE, digest=outcome.merge_digest, retries=0)
    take_usage(builder, outcome.usage)
    if outcome.outcome in PUBLISHED:
        return complete(run, outcome)
    counts = take_counts(builder, outcome)
    if outcome.outcome == "TooManyFailed":
        said = f"{counts.failed} of {counts.total} episodes failed"
        return fail(run, Failure(Reason.TOO_MANY_FAILED_EPISODES, said))
    return _annotate_again(run, outcome)


def _plan_again(run: ReconcileContext, failure: Failure) -> Decision:
    """The merge failed. Where others had pushed since the plan, another one takes their change in."""
    builder = run.builder
    retries = builder.status.merge.retries + 1
    if failure.reason is not Reason.OUTPUT_MOVED or retries >= ATTEMPTS:
        return fail(run, failure)
    builder.set_step(Step.MERGE, retries=retries, job_name="")
    builder.set_step(Step.PLAN, digest="", job_name="")
    builder.steps[ConditionType.PLANNED] = (False, Reason.SOURCE_CHANGED, failure.message)
    return take_step(run)


def _annotate_again(run: ReconcileContext, outcome: MergeOutcome) -> Decision:
    """Results are missing that can still be made: the next attempt, unless attempts bring nothing."""
    builder, annotate = run.builder, run.builder.status.annotate
    has_progress = outcome.results > annotate.done_before or not annotate.attempt
    retries = 0 if has_progress else annotate.retries + 1
    if retries >= ATTEMPTS:
        missing = outcome.total - outcome.done - outcome.failed
        said = f"{missing} of {outcome.total} episodes lack results{_last_word(run)}"
        return fail(run, Failure(Reason.NO_PROGRESS, said))
    builder.set_step(
        Step.ANNOTATE, input_digest="", job_name="", retries=retries, done_before=outcome.results
    )
    builder.set_step(Step.PLAN, pending=max(1, outcome.total - outcome.done - outcome.failed))
    builder.steps[ConditionType.ANNOTATED] = (False, Reason.IN_PROGRESS, "")
    return take_step(run)


def _last_word(run: ReconcileContext) -> str:
    """Why the last attempt to annotate failed, as far as its pods are still there."""
    name = run.builder.status.annotate.job_name
    for job in run.builder.seen.jobs:
        if job.name == name and job.has_failed:
            return f"; {job_failure(job, run.builder.seen.pods).message}"
    return ""


def _try_again(run: ReconcileContext, step: Step, failure: Failure) -> Decision:
    """Another attempt of a step whose Job ended without a word; a few of them at most."""
    builder = run.builder
    retries = builder.step(step).retries + 1
    if retries >= ATTEMPTS:
        return fail(run, failure)
    builder.set_step(step, retries=retries, job_name="")
    return take_step(run)
