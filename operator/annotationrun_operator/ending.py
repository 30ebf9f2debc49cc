"""How a run ends, well or not."""

from annotationrun_api.conditions import ConditionType
from annotationrun_api.reasons import Reason
from annotationrun_api.status import EpisodeCounts, Publication, latest_failures
from annotationrun_api.step_results import MergeOutcome
from annotationrun_operator.accounting import finish_progress, set_active
from annotationrun_operator.decision import Decision
from annotationrun_operator.draft import Draft, State, with_remedy
from annotationrun_operator.observation import JobView
from annotationrun_operator.outcomes import Failure, merge_outcome
from annotationrun_operator.run_pass import RunPass

PUBLISHED = ("Published", "Unchanged")


def record_publication(draft: Draft, job: JobView) -> MergeOutcome | None:
    """Note what an ended merge published; its outcome, or None where it tells none."""
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
                pull_request=outcome.pull_request,
                holes=outcome.failed,
                time=draft.now,
            )
        )
    return outcome


def take_counts(draft: Draft, outcome: MergeOutcome) -> EpisodeCounts:
    """Take over what the merge found of the episodes."""
    counts = EpisodeCounts(total=outcome.total, done=outcome.done, failed=outcome.failed)
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
        holes = f"{outcome.failed} of {outcome.total} episodes failed."
        draft.steps[ConditionType.ANNOTATED] = (
            True,
            Reason.ENDED_WITH_HOLES,
            with_remedy(Reason.ENDED_WITH_HOLES, holes),
        )
    draft.steps[ConditionType.MERGED] = (True, same, "")
    draft.steps[ConditionType.PUBLISHED] = (True, same, outcome.place)
    annotated = f"{outcome.done} of {outcome.total} episodes annotated, in {outcome.place}."
    message = f"{annotated} {draft.status.usage.text()}."
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
