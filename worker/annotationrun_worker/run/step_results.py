"""What the steps tell the operator of a cluster, made of what they did."""

from datetime import datetime
from typing import Literal

from annotationrun_api import status
from annotationrun_api.spec import RunSpec
from annotationrun_api.step_results import MergeOutcome, PlanResult
from annotationrun_worker.errors import TooManyFailedError
from annotationrun_worker.run.local import PlanReport, RunReport
from annotationrun_worker.run.places import HubPlace
from annotationrun_worker.run.report import EpisodeFailure


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
        holes=len(annotated.holes),
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
        failures=tuple(map(_told, failures[: status.SHOWN_FAILURES])),
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


def _told(failure: EpisodeFailure) -> status.EpisodeFailure:
    return status.EpisodeFailure(
        episode_index=failure.episode,
        module=failure.module,
        attempts=failure.attempts,
        time=datetime.fromisoformat(failure.time) if failure.time else None,
        cause=failure.cause.encode(errors="backslashreplace").decode(),  # names of files may be no Unicode
    )
