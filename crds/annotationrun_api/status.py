"""The status of a run, written by the operator alone. Its size does not grow with the episodes."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from annotationrun_api.conditions import Condition
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.schema_marks import ListMap
from annotationrun_api.status_types import (
    Count,
    Digest,
    JobName,
    StatusModel,
    Text64,
    Text256,
    Text1024,
    Time,
)

UNOBSERVED_GENERATION = -1
"""`observedGeneration` before the operator has seen a run; tools that wait take it for work to come."""
SHOWN_FAILURES = 20
MAX_CONDITIONS = 16
MAX_DISRUPTED_PODS = 100


class EpisodeCounts(StatusModel):
    """Episodes of the plan, by what became of them."""

    total: Count = Field(default=0, description="total: episodes that the spec selects. Default 0.")
    done: Count = Field(default=0, description="done: episodes with all their results. Default 0.")
    failed: Count = Field(default=0, description="failed: episodes that were given up. Default 0.")
    unanswered: Count = Field(
        default=0,
        description="unanswered: questions in the episodes done that got no usable answer and so no row, as"
        " of the last merge. Default 0.",
    )


class Progress(StatusModel):
    """How far the run is; never falls under one plan."""

    percent: int = Field(
        default=0, ge=0, le=100, description="percent: done of 100, rounded down. Default 0."
    )
    text: Text64 = Field(default="", description='text: for people, such as "37% (24/64)". Default "".')
    eta: Text64 = Field(default="", description='eta: time to go, such as "1h05m". Default "": not known.')
    estimated_completion_time: Time | None = Field(
        default=None, description="estimatedCompletionTime: when the run will be done. Default null: unknown."
    )
    reported_time: Time | None = Field(
        default=None, description="reportedTime: when the counts were taken. Default null: never."
    )


class EpisodeFailure(StatusModel):
    """An episode that was given up."""

    episode_index: Count = Field(description="episodeIndex: index in the dataset. Required.")
    module: Text64 = Field(description="module: the module that failed. Required.")
    attempts: Count = Field(default=1, description="attempts: how often it was tried. Default 1.")
    cause: Text256 = Field(description="cause: why the last attempt failed. Required.")
    time: Time | None = Field(default=None, description="time: when it was given up. Default null: unknown.")


class GpuUse(StatusModel):
    """GPU time that the run's pods have held."""

    seconds: Count = Field(
        default=0, description="seconds: GPUs times seconds, until countedTime. Default 0."
    )
    held: Count = Field(default=0, description="held: GPUs held at countedTime. Default 0.")
    counted_time: Time | None = Field(
        default=None, description="countedTime: until when seconds counts. Default null: nothing counted."
    )


class Activity(StatusModel):
    """What the deadlines are measured by: not the Jobs' own times, as a suspended run has no Job."""

    active_seconds: Count = Field(
        default=0, description="activeSeconds: seconds the run was active before activeSince. Default 0."
    )
    active_since: Time | None = Field(
        default=None, description="activeSince: since when it is active. Default null: it is not."
    )
    waiting_since: Time | None = Field(
        default=None,
        description="waitingSince: since when pods of the step are awaited. Default null: none are.",
    )


class StepStatus(StatusModel):
    """One step's attempts, each written here before its Job is created."""

    attempt: Count = Field(
        default=0,
        description="attempt: number of the last attempt, from 1; counts on over edits. Default 0: none.",
    )
    job_name: JobName = Field(default="", description='jobName: Job of that attempt. Default "": none.')
    input_digest: Digest = Field(
        default="",
        description='inputDigest: digest of the settings that the step was given. Default "": none.',
    )
    ended_attempt: Count = Field(
        default=0, description="endedAttempt: number of the last attempt that has ended. Default 0: none."
    )
    retries: Count = Field(
        default=0,
        description="retries: attempts in a row that failed in a way that is tried again. Default 0.",
    )


class PlanStatus(StepStatus):
    """The plan step, and the plan it made."""

    digest: Digest = Field(
        default="", description='digest: name of the plan in the staging store. Default "": no plan.'
    )
    source_commit: Text64 = Field(
        default="",
        description="sourceCommit: commit of the source that the plan is of; our own, once a run in place has"
        ' published. Default "": a folder, or no plan.',
    )
    model_commit: Text64 = Field(
        default="",
        description="modelCommit: commit that spec.model.revision named when the plan was made; the results"
        ' belong to it. Default "": not looked up, as with mode External, or no plan.',
    )
    pending: Count = Field(
        default=0,
        description="pending: episodes that lacked a result, or had questions to be asked again, when the"
        " plan was made. Default 0: no worker is needed.",
    )
    retry_token: Text64 = Field(
        default="", description='retryToken: the retryToken that it was made for. Default "": the first.'
    )
    requested_at: Text64 = Field(
        default="",
        description="requestedAt: the annotation requested-at that it was made for, cut like all texts."
        ' Default "": none.',
    )
    last_poll_time: Time | None = Field(
        default=None,
        description="lastPollTime: when the source was last looked at: by a plan, or by follow. Default null:"
        " not yet.",
    )


class PrefetchStatus(StepStatus):
    """The prefetch step, which fills the claim that keeps the model; there is none without one."""

    commit: Text64 = Field(
        default="",
        description="commit: commit of the model's repository whose files the claim holds; the servers of the"
        ' run read it offline. Default "": none.',
    )


class AnnotateStatus(StepStatus):
    """The annotate step."""

    done_before: Count = Field(
        default=0,
        description="doneBefore: results that there were when the attempt began; to see progress. Default 0.",
    )
    episodes_before: Count = Field(
        default=0,
        description="episodesBefore: episodes done when the attempt began; the ETA counts from there."
        " Default 0.",
    )
    disrupted_pods: tuple[Text64, ...] = Field(
        default=(),
        max_length=MAX_DISRUPTED_PODS,
        description="disruptedPods: UIDs of disrupted pods that are still listed, and counted already."
        " Default []: none.",
    )
    disruptions_without_progress: Count = Field(
        default=0,
        description="disruptionsWithoutProgress: disruptions since the last progress. Default 0.",
    )
    server: Text256 = Field(
        default="",
        description="server: what the workers of the attempt found at their model server."
        ' Default "": they have not asked it yet.',
    )


class MergeStatus(StepStatus):
    """The merge step."""

    digest: Digest = Field(
        default="", description='digest: merge digest of the attempt that ended last. Default "": none.'
    )


class LabelledEpisodes(StatusModel):
    """How many episodes of a dataset have labels of each module, whichever run made them."""

    plan: Count = Field(default=0, description="plan: episodes with rows of the module plan. Default 0.")
    interjections: Count = Field(
        default=0, description="interjections: episodes with rows of the module interjections. Default 0."
    )
    vqa: Count = Field(default=0, description="vqa: episodes with rows of the module vqa. Default 0.")


class Publication(StatusModel):
    """What was published last."""

    merge_digest: Digest = Field(description="mergeDigest: digest of what was published. Required.")
    place: Text1024 = Field(description="place: repository and branch, or volume and folder. Required.")
    commit: Text64 = Field(default="", description='commit: commit on the Hub. Default "": a folder.')
    previous_commit: Text64 = Field(
        default="",
        description='previousCommit: the commit of the branch before that one, to go back to. Default "": a'
        " folder, or the first commit.",
    )
    pull_request: Text256 = Field(
        default="", description='pullRequest: its address. Default "": pushed, or a folder.'
    )
    failed_episodes: Count = Field(
        default=0, description="failedEpisodes: episodes published without new rows. Default 0."
    )
    labelled_episodes: LabelledEpisodes = Field(
        default=LabelledEpisodes(),
        description="labelledEpisodes: episodes of the dataset with labels, by module. Default {}: none.",
    )
    time: Time = Field(description="time: when it was published. Required.")


class RunStatus(StatusModel):
    """What the operator knows about a run."""

    observed_generation: int = Field(
        default=UNOBSERVED_GENERATION,
        ge=UNOBSERVED_GENERATION,
        le=(1 << 53) - 1,
        description="observedGeneration: generation of the spec that the status is about. Default -1: none.",
    )
    conditions: Annotated[tuple[Condition, ...], ListMap("type")] = Field(
        default=(), max_length=MAX_CONDITIONS, description="conditions: conditions by type. Default []: none."
    )
    start_time: Time | None = Field(
        default=None, description="startTime: when the first Job was created. Default null: none was."
    )
    completion_time: Time | None = Field(
        default=None,
        description="completionTime: when the run ended, well or not. Default null: it has not.",
    )
    progress: Progress = Field(
        default_factory=Progress, description="progress: how far the run is. Default {}."
    )
    episodes: EpisodeCounts = Field(
        default_factory=EpisodeCounts, description="episodes: counts of episodes. Default {}."
    )
    failures: tuple[EpisodeFailure, ...] = Field(
        default=(),
        max_length=SHOWN_FAILURES,
        description="failures: the episodes that were given up last, newest first. Default []: none.",
    )
    disruptions: Count = Field(
        default=0,
        description="disruptions: pods lost to drains, preemption and the like; they cost no attempt."
        " Default 0.",
    )
    gpu: GpuUse = Field(default_factory=GpuUse, description="gpu: GPU time used. Default {}.")
    usage: RunUsage = Field(
        default_factory=RunUsage,
        description="usage: what the run has cost since it was created, over all plans and attempts; its"
        " gpuSeconds is gpu.seconds, the rest stands as of the last merge. Default {}.",
    )
    activity: Activity = Field(
        default_factory=Activity, description="activity: what deadlines are measured by. Default {}."
    )
    plan: PlanStatus = Field(default_factory=PlanStatus, description="plan: the plan step. Default {}.")
    prefetch: PrefetchStatus = Field(
        default_factory=PrefetchStatus, description="prefetch: the prefetch step. Default {}."
    )
    annotate: AnnotateStatus = Field(
        default_factory=AnnotateStatus, description="annotate: the annotate step. Default {}."
    )
    merge: MergeStatus = Field(default_factory=MergeStatus, description="merge: the merge step. Default {}.")
    ended_input: Digest = Field(
        default="",
        description="endedInput: digest of the spec that the run ended with, well or not, without suspend and"
        ' TTL. Default "": it has not ended.',
    )
    published: Publication | None = Field(
        default=None, description="published: what was published last. Default null: nothing."
    )


def read_status(raw: Mapping[str, object] | None) -> RunStatus:
    """The status of a run as the API server gives it; an absent one is that of a run never seen.

    Raises:
        ValueError: it does not fit the schema (pydantic's `ValidationError`).
    """
    return RunStatus.model_validate(raw or {})


def write_status(status: RunStatus) -> dict[str, object]:
    """The status as JSON values, for the status subresource; nulls are left out."""
    written: dict[str, object] = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    return written


def latest_failures(
    known: Iterable[EpisodeFailure], new: Iterable[EpisodeFailure]
) -> tuple[EpisodeFailure, ...]:
    """The failures to show: new ones first, one for each episode and module, `SHOWN_FAILURES` at most."""
    by_place: dict[tuple[int, str], EpisodeFailure] = {}
    for failure in (*new, *known):
        by_place.setdefault((failure.episode_index, failure.module), failure)
    return tuple(by_place.values())[:SHOWN_FAILURES]
