"""How a run ends, well or not."""

from annotationrun_api.conditions import ConditionType
from annotationrun_api.labels import Step
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import RunSpec
from annotationrun_api.status import EpisodeCounts, Publication, latest_failures
from annotationrun_api.step_results import MergeOutcome
from annotationrun_operator.accounting import finish_progress, set_active
from annotationrun_operator.decision import Decision
from annotationrun_operator.draft import Draft, State, with_remedy
from annotationrun_operator.observation import JobView
from annotationrun_operator.outcomes import Failure, merge_outcome
from annotationrun_operator.run_pass import RunPass

PUBLISHED = ("Published", "Unchanged")


def record_publication(run: RunPass, job: JobView) -> MergeOutcome | None:
    """Note what an ended merge published; its outcome, or None where it tells none."""
    draft = run.draft
    outcome = merge_outcome(job, draft.seen.pods)
    if outcome is None or outcome.outcome not in PUBLISHED:
        return outcome
    known = draft.status.published
    if known is None or known.merge_digest != outcome.merge_digest or known.place != outcome.place:
        draft.set(
            published=Publication(
                merge_digest=outcome.merge_digest,
                place=outcome.place,
                commit=outcome.commit,
                previous_commit=outcome.previous_commit,
                pull_request=outcome.pull_request,
                holes=outcome.failed,
                labelled_episodes=outcome.labelled_episodes,
                time=draft.now,
            )
        )
    if outcome.outcome == "Published" and outcome.commit and _is_in_place(run.manifest.spec):
        # The plan is of this commit too, and only on top of this one can be pushed again.
        attempt = draft.status.plan.attempt
        draft.set_step(Step.PLAN, source_commit=outcome.commit, ended_attempt=attempt)
    return outcome


def _is_in_place(spec: RunSpec) -> bool:
    """Whether the commit goes on top of the source itself."""
    source, output = spec.source, spec.output
    is_same = source.repo_id == output.repo_id and source.revision == output.branch
    return source.repo_id is not None and is_same and not output.pull_request


def take_counts(draft: Draft, outcome: MergeOutcome) -> EpisodeCounts:
    """Take over what the merge found of the episodes."""
    counts = EpisodeCounts(total=outcome.total, done=outcome.done, failed=outcome.failed, holes=outcome.holes)
    draft.set(episodes=counts, failures=latest_failures(draft.status.failures, outcome.failures))
    return counts


def complete(run: RunPass, outcome: MergeOutcome) -> Decision:
    """The dataset is published."""
    draft = run.draft
    finish_progress(draft, take_counts(draft, outcome))
    set_active(draft, is_active=False)
    draft.set(completion_time=draft.now, ended_input=run.inputs.run)
    same = Reason.NOTHING_TO_DO if outcome.outcome == "Unchanged" else Reason.SUCCEEDED
    if outcome.failed:
        failed = f"{outcome.failed} of {outcome.total} episodes failed."
        draft.steps[ConditionType.ANNOTATED] = (
            True,
            Reason.ENDED_WITH_HOLES,
            with_remedy(Reason.ENDED_WITH_HOLES, failed),
        )
    draft.steps[ConditionType.MERGED] = (True, same, "")
    draft.steps[ConditionType.PUBLISHED] = (True, same, outcome.place)
    annotated = f"{outcome.done} of {outcome.total} episodes annotated, in {outcome.place}."
    holes = f" {outcome.holes} of the questions got no usable answer." if outcome.holes else ""
    message = f"{annotated}{holes} {draft.status.usage.text()}."
    return draft.conclude(State("Complete", Reason.COMPLETE, message))


def fail(run: RunPass, failure: Failure) -> Decision:
    """The run has ended without success; it holds nothing any more, and what is staged stays."""
    draft = run.draft
    set_active(draft, is_active=False)
    for job in draft.live_jobs():
        draft.delete(job)
    draft.set(completion_time=draft.now, ended_input=run.inputs.run)
    message = with_remedy(failure.reason, failure.message)
    return draft.conclude(State("Failed", failure.reason, message))
