"""Whether the source of a run that has ended is another now: ``spec.source.follow``.

The operator speaks to no Hub. A look at the source is an attempt of the plan step, whose Job tells the digest
of the plan. That knows no commit, only what the source holds, and of a dataset that is annotated in place
what it held before. So our own commits give the same digest; then nothing happens, not even to a condition.

The time of a look stands in the status, with the Job's name, before the Job is created. A look whose Job is
gone (the operator was killed between the two, somebody deleted it) is over: the next comes after the
interval. So Jobs may be removed whenever they have ended.
"""

from datetime import timedelta
from typing import Final

from annotationrun_api.conditions import ConditionType, find_condition, holds
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.step_results import PlanResult
from annotationrun_operator.core.outcomes import job_failure, plan_result
from annotationrun_operator.core.preconditions import find_refused_choice
from annotationrun_operator.core.status import ReconcileContext, StatusBuilder, with_remedy
from annotationrun_operator.core.steps import creation
from annotationrun_operator.manifests.jobs import job_name
from annotationrun_operator.observation import JobView

LOOK_LIMIT: Final = timedelta(hours=1)
"""For a look, where the interval is shorter: a changed source may have to be fetched."""
STOPPING_SECONDS: Final = 30.0
"""Between two looks at a Job that goes."""


def is_look(builder: StatusBuilder, job: JobView) -> bool:
    """Whether a Job is that of the last look."""
    return job.step is Step.PLAN and job.name == builder.status.plan.job_name


def look_at_source(run: ReconcileContext) -> PlanResult | None:
    """See to the looks at the source of a run that has ended; the plan to carry out, if it is another."""
    builder, spec = run.builder, run.manifest.spec
    job = next((job for job in builder.seen.jobs if is_look(builder, job)), None)
    if spec.source.follow.mode == "Never" or spec.suspend:
        if job is not None and not job.has_ended:
            builder.delete(job)
        return None
    if (refused := find_refused_choice(spec, builder.settings.allowed)) is not None:
        # The run has ended as it was allowed then; a look would be a pod that is not allowed now.
        if job is not None and not job.has_ended:
            builder.delete(job)
        _note(builder, with_remedy(refused.reason, refused.message))
        return None
    if job is not None and job.has_ended and job.attempt != builder.status.plan.ended_attempt:
        changed = _take_look(builder, job)
        if changed is not None:
            return changed
    _note_refusal(builder)
    since = builder.status.plan.last_poll_time or builder.status.completion_time or builder.now
    interval = timedelta(seconds=spec.source.follow.interval_seconds)
    is_under_way = job is not None and not job.has_ended
    left = since + (max(interval, LOOK_LIMIT) if is_under_way else interval) - builder.now
    if job is not None and is_under_way and job.is_suspended:  # it has a place in a queue
        builder.recheck(interval.total_seconds())
    elif left > timedelta():
        builder.recheck(left.total_seconds())
    elif job is not None and is_under_way:  # it hangs
        _note(builder, f"Job {job.name} had not ended after {max(interval, LOOK_LIMIT)}")
        builder.delete(job)
        builder.recheck(STOPPING_SECONDS)
    else:
        _begin_look(run)
    return None


def _begin_look(run: ReconcileContext) -> None:
    builder = run.builder
    for job in builder.seen.jobs:
        if job.step is Step.PLAN and job.has_ended:
            builder.delete(job)
    attempt = builder.status.plan.attempt + 1
    name = job_name(builder.seen.run, Step.PLAN, builder.status.plan.digest, attempt)
    builder.set_step(Step.PLAN, attempt=attempt, job_name=name, last_poll_time=builder.now)
    builder.actions.append(creation(run, Step.PLAN, 1))
    builder.recheck(run.manifest.spec.source.follow.interval_seconds)


def _take_look(builder: StatusBuilder, job: JobView) -> PlanResult | None:
    """The plan, if it is another."""
    plan = builder.status.plan
    if job.has_failed:
        _note(builder, job_failure(job, builder.seen.pods).message)
        return None
    result = plan_result(job, builder.seen.pods)
    if result is None:
        _note(builder, f"Job {job.name} told no plan")
        return None
    if result.plan != plan.digest:
        return result
    planned = find_condition(builder.status.conditions, ConditionType.PLANNED)
    if planned is not None and planned.reason == Reason.SOURCE_POLL_FAILED.value:
        builder.steps[ConditionType.PLANNED] = (True, Reason.SUCCEEDED, f"{result.episodes} episodes.")
    builder.set_step(Step.PLAN, source_commit=result.source_commit)
    return None


def _note_refusal(builder: StatusBuilder) -> None:
    refusal = builder.seen.refusal
    if refusal is not None and refusal.job_name == builder.status.plan.job_name:
        _note(builder, refusal.message)


def _note(builder: StatusBuilder, message: str) -> None:
    """A look came to nothing: of a run that is complete that is told, one that failed has said more."""
    if holds(builder.status.conditions, ConditionType.COMPLETE):
        said = with_remedy(Reason.SOURCE_POLL_FAILED, message)
        builder.steps[ConditionType.PLANNED] = (True, Reason.SOURCE_POLL_FAILED, said)
