"""What to do about a run, from what is seen of it: no I/O, no clock.

Everything is observed anew each time. What a run has come to stands in its status; which step is next follows
from that and from digests of the spec (`inputs`): an edit asks again for the steps whose digest it changes.
An attempt is written into the status before its Job is created, with the Job's name; so whoever comes after a
crash creates that Job and no other.
"""

from datetime import datetime, timedelta
from typing import Final

from annotationrun_api.conditions import STEP_CONDITIONS, ConditionType, find_condition, holds
from annotationrun_api.errors import ManifestError
from annotationrun_api.labels import REQUESTED_AT_ANNOTATION, Step
from annotationrun_api.manifest import parse_object
from annotationrun_api.reasons import Reason, find_reason
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_effects import settings_without_effect
from annotationrun_api.status import (
    Activity,
    AnnotateStatus,
    EpisodeCounts,
    MergeStatus,
    PlanStatus,
    PrefetchStatus,
    Progress,
)
from annotationrun_api.step_results import PlanResult
from annotationrun_operator.core.accounting import active_seconds, count_disruptions, count_gpus, set_active
from annotationrun_operator.core.follow import is_look, look_at_source
from annotationrun_operator.core.outcomes import Failure
from annotationrun_operator.core.preconditions import find_fault, manifest_fault
from annotationrun_operator.core.status import (
    Announcement,
    Decision,
    ReconcileContext,
    State,
    StateKind,
    StatusBuilder,
    with_remedy,
)
from annotationrun_operator.core.steps import fail, go_on_with, record_publication, take_step
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.observation import Observation, read_inputs

LOOK_AGAIN_SECONDS: Final = 60.0
"""At what is not watched: claims that are missing, quotas."""


def decide(seen: Observation, now: datetime, settings: JobSettings) -> Decision:
    """What to write into the status, and what to create and delete.

    Args:
        seen: the run and its children.
        now: the time, in UTC.
        settings: of the installation.
    """
    builder = StatusBuilder(seen, now, settings, seen.run.status)
    if seen.run.is_deleting:  # its children go with it, by their owner references
        return Decision(builder.status)
    count_gpus(builder)
    count_disruptions(builder)
    try:
        manifest = parse_object(seen.run.manifest, seen.run.name)
    except ManifestError as error:
        return _stall(builder, manifest_fault(error))
    _tell_settings_without_effect(builder, manifest.spec)
    inputs = read_inputs(manifest, seen.run.annotations)
    if builder.status.ended_input == inputs.run:
        return _stay(ReconcileContext(builder, manifest, inputs))
    fault = find_fault(manifest, seen.claims, settings.allowed)
    if fault is not None:
        builder.recheck(LOOK_AGAIN_SECONDS)
        return _stall(builder, fault)
    if manifest.spec.suspend:
        return _suspend(builder)
    return _go_on(ReconcileContext(builder, manifest, inputs))


def _tell_settings_without_effect(builder: StatusBuilder, spec: RunSpec) -> None:
    """Warn of them once for each edit of the spec."""
    said = settings_without_effect(spec, in_cluster=True)
    if said and builder.status.observed_generation != builder.seen.run.generation:
        message = with_remedy(Reason.SETTINGS_WITHOUT_EFFECT, said)
        builder.announcements.append(Announcement("Warning", Reason.SETTINGS_WITHOUT_EFFECT, message))


def _stall(builder: StatusBuilder, fault: Failure) -> Decision:
    """Nothing goes on until somebody changes something; what is staged stays."""
    _stop_jobs(builder)
    return builder.finalize(State("Stalled", fault.reason, with_remedy(fault.reason, fault.message)))


def _stay(run: ReconcileContext) -> Decision:
    """The run has ended, and nothing that matters was edited since."""
    builder, ttl = run.builder, run.manifest.spec.ttl_seconds_after_finished
    set_active(builder, is_active=False)
    changed = look_at_source(run)
    if changed is not None:
        return _take_change(run, changed)
    status = builder.status
    for job in builder.live_jobs():
        if not is_look(builder, job):
            builder.delete(job)
    if ttl is not None and status.completion_time is not None:
        left = status.completion_time + timedelta(seconds=ttl) - builder.now
        if left > timedelta():
            builder.recheck(left.total_seconds())
        else:
            for job in builder.seen.jobs:
                if job.has_ended:
                    builder.delete(job)
    known = find_condition(status.conditions, ConditionType.READY)
    kind: StateKind = "Complete" if holds(status.conditions, ConditionType.COMPLETE) else "Failed"
    failed = find_condition(status.conditions, ConditionType.FAILED)
    said = failed if kind == "Failed" and failed else known
    reason = (find_reason(said.reason) if said else None) or Reason.COMPLETE
    return builder.finalize(State(kind, reason, said.message if said else ""))


def _suspend(builder: StatusBuilder) -> Decision:
    """The pods go; the attempts that they were are over, and going on begins the next."""
    _stop_jobs(builder)
    gone = not builder.live_jobs()
    message = "" if gone else "Pods are still going."
    return builder.finalize(State("Suspended", Reason.SUSPENDED, with_remedy(Reason.SUSPENDED, message)))


def _stop_jobs(builder: StatusBuilder) -> None:
    set_active(builder, is_active=False)
    live = builder.live_jobs()
    for job in live:
        builder.delete(job)
    for step in Step:
        name = builder.step(step).job_name
        if name and not any(job.name == name and job.has_ended for job in builder.seen.jobs):
            builder.set_step(step, job_name="")


def _go_on(run: ReconcileContext) -> Decision:
    builder = run.builder
    if builder.status.ended_input:
        _reopen(run)
    if builder.status.plan.input_digest != run.inputs.plan:
        decision = _begin_anew(run)
        if decision is not None:
            return decision
    limit = run.manifest.spec.active_deadline_seconds
    if limit is not None:
        left = limit - active_seconds(builder.status.activity, builder.now)
        if left <= 0:
            return fail(run, Failure(Reason.ACTIVE_DEADLINE_EXCEEDED, f"The limit is {limit} s"))
        builder.recheck(left)
    return take_step(run)


def _reopen(run: ReconcileContext) -> None:
    """The run had ended, and was edited: what failed is tried in a new attempt."""
    builder = run.builder
    if holds(builder.status.conditions, ConditionType.FAILED):
        for step in Step:
            live = {job.name for job in builder.live_jobs() if not job.is_deleting}
            if builder.step(step).job_name not in live:
                builder.set_step(step, job_name="", retries=0)
        builder.set_step(Step.ANNOTATE, disruptions_without_progress=0)
    builder.set(ended_input="", completion_time=None)


def _begin_anew(run: ReconcileContext) -> Decision | None:
    """The results that are wanted are others than those planned for: plan again, once nothing is at work."""
    builder, status = run.builder, run.builder.status
    for job in builder.seen.jobs:
        if job.step is Step.MERGE and job.name == status.merge.job_name and job.has_ended:
            record_publication(run, job)
    live = builder.live_jobs()
    if live or any(not pod.has_ended and pod.step is Step.MERGE for pod in builder.seen.pods):
        for job in live:
            builder.delete(job)
        builder.recheck(LOOK_AGAIN_SECONDS)
        return builder.finalize(State("Working", Reason.STOPPING, Reason.STOPPING.happened))
    requested_at = builder.seen.run.annotations.get(REQUESTED_AT_ANNOTATION, "")[:64]
    token = run.manifest.spec.retry_token
    is_retry = (token, requested_at) != (status.plan.retry_token, status.plan.requested_at)
    is_first = not status.plan.input_digest
    reason = Reason.NOT_STARTED if is_first else Reason.RETRY_REQUESTED if is_retry else Reason.SPEC_CHANGED
    plan = PlanStatus(
        attempt=builder.status.plan.attempt,
        input_digest=run.inputs.plan,
        retry_token=token,
        requested_at=requested_at,
    )
    _forget_steps(builder, plan, reason)
    return None


def _take_change(run: ReconcileContext, changed: PlanResult) -> Decision:
    """The source, or the model, is another now: its plan is carried out, within a deadline of its own."""
    builder = run.builder
    reason, said = Reason.SOURCE_CHANGED, changed.source_commit
    before = builder.status.plan.model_commit
    if before != changed.model_commit:
        reason, said = (
            Reason.MODEL_CHANGED,
            f"It was {before or 'not known'}, now it is {changed.model_commit or 'not known'}",
        )
    builder.announcements.append(Announcement("Normal", reason, with_remedy(reason, said)))
    _reopen(run)
    _forget_steps(builder, builder.status.plan, reason)
    builder.set(activity=Activity())
    return go_on_with(run, changed)


def _forget_steps(builder: StatusBuilder, plan: PlanStatus, reason: Reason) -> None:
    """The steps begin anew, by another plan; their attempts count on."""
    status = builder.status
    builder.set(
        plan=plan,
        prefetch=PrefetchStatus(attempt=status.prefetch.attempt),
        annotate=AnnotateStatus(
            attempt=status.annotate.attempt,
            ended_attempt=status.annotate.ended_attempt,
            disrupted_pods=status.annotate.disrupted_pods,
        ),
        merge=MergeStatus(attempt=status.merge.attempt, digest=status.merge.digest),
        progress=Progress(),
        episodes=EpisodeCounts(),
        failures=(),
        completion_time=None,
    )
    for kind in STEP_CONDITIONS:
        builder.steps[kind] = (False, reason, "")
