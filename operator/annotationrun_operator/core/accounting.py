"""What a run has used and how far it is: GPU time, active time, disruptions, progress."""

from datetime import datetime, timedelta
from typing import Final

from annotationrun_api.labels import Step
from annotationrun_api.run_usage import RunUsage
from annotationrun_api.status import MAX_DISRUPTED_PODS, Activity, EpisodeCounts, GpuUse, Progress
from annotationrun_api.step_results import WorkerProgress
from annotationrun_operator.core.status import StatusBuilder

COUNT_GPUS_EVERY_SECONDS: Final = 60.0
"""The status is not written more often for GPU time alone."""


def count_gpus(builder: StatusBuilder) -> None:
    """Add what was held since the last count; GPUs are held from a pod's scheduling to its end."""
    used, now = builder.status.gpu, builder.now
    held = sum(pod.gpus for pod in builder.seen.pods if pod.is_scheduled and not pod.has_ended)
    if not held and not used.held:
        return
    passed = (now - used.counted_time).total_seconds() if used.counted_time else 0.0
    if held == used.held and passed < COUNT_GPUS_EVERY_SECONDS:
        return
    seconds = used.seconds + round(used.held * max(0.0, passed))
    builder.set(
        gpu=GpuUse(seconds=seconds, held=held, counted_time=now),
        usage=builder.status.usage.with_gpu_seconds(seconds),
    )


def take_usage(builder: StatusBuilder, told: RunUsage) -> None:
    """Take over what the merge summed of the workers' counts; for GPU time the pods' own time holds.

    The workers can't know that: GPUs are held from a pod's scheduling on, and a killed worker tells nothing.
    """
    builder.set(usage=told.with_gpu_seconds(builder.status.gpu.seconds))


def count_disruptions(builder: StatusBuilder) -> None:
    """Count each disrupted pod once: those counted are known as long as they are listed."""
    known = set(builder.status.annotate.disrupted_pods)
    listed = [pod.uid for pod in builder.seen.pods if pod.is_disrupted][:MAX_DISRUPTED_PODS]
    new = sum(uid not in known for uid in listed)
    if not new and known == set(listed):
        return
    without = builder.status.annotate.disruptions_without_progress + new
    builder.set_step(Step.ANNOTATE, disrupted_pods=tuple(listed), disruptions_without_progress=without)
    builder.set(disruptions=builder.status.disruptions + new)


def set_active(builder: StatusBuilder, *, is_active: bool) -> None:
    """Start or stop the clock of ``activeDeadlineSeconds``."""
    activity = builder.status.activity
    if is_active and activity.active_since is None:
        builder.set(activity=activity.model_copy(update={"active_since": builder.now}))
    elif not is_active and (activity.active_since is not None or activity.waiting_since is not None):
        seconds = round(active_seconds(activity, builder.now))
        builder.set(activity=Activity(active_seconds=seconds))


def active_seconds(activity: Activity, now: datetime) -> float:
    """How long the run has been active."""
    since = activity.active_since
    return activity.active_seconds + (max(0.0, (now - since).total_seconds()) if since else 0.0)


def set_waiting(builder: StatusBuilder, *, is_waiting: bool) -> float:
    """Start or stop the clock of ``startDeadlineSeconds``; the seconds that pods have been awaited."""
    activity = builder.status.activity
    if not is_waiting:
        if activity.waiting_since is not None:
            builder.set(activity=activity.model_copy(update={"waiting_since": None}))
        return 0.0
    if activity.waiting_since is None:
        builder.set(activity=activity.model_copy(update={"waiting_since": builder.now}))
        return 0.0
    return (builder.now - activity.waiting_since).total_seconds()


def take_progress(builder: StatusBuilder, told: WorkerProgress, since: datetime) -> None:
    """Take over what a worker tells, of the model server too; counts never fall under one plan.

    Args:
        builder: of the run that is reconciled.
        told: by a worker.
        since: when the attempt began, for the ETA.
    """
    status = builder.status
    if told.plan != status.plan.digest:
        return
    if told.server:
        builder.set_step(Step.ANNOTATE, server=told.server)
    known = status.episodes
    total = max(known.total, told.total)
    counts = EpisodeCounts(
        total=total,
        done=min(total, max(known.done, told.done)),
        failed=max(known.failed, told.failed),
        unanswered=known.unanswered,
    )
    if counts == known:
        return
    if counts.done > known.done:
        builder.set_step(Step.ANNOTATE, disruptions_without_progress=0)
    builder.set(episodes=counts, progress=_progress(builder, counts, since))


def finish_progress(builder: StatusBuilder, counts: EpisodeCounts) -> None:
    """The run is complete."""
    progress = Progress(percent=100, text=_text(100, counts), reported_time=builder.now)
    builder.set(episodes=counts, progress=progress)


def _progress(builder: StatusBuilder, counts: EpisodeCounts, since: datetime) -> Progress:
    ended = counts.done + counts.failed
    percent = min(99, 100 * ended // counts.total) if counts.total else 0  # 100: published
    percent = max(percent, builder.status.progress.percent)
    left = counts.total - ended
    here = ended - builder.status.annotate.episodes_before
    passed = (builder.now - since).total_seconds()
    if here <= 0 or passed <= 0:
        return Progress(percent=percent, text=_text(percent, counts), reported_time=builder.now)
    seconds = left * passed / here
    return Progress(
        percent=percent,
        text=_text(percent, counts),
        eta=duration_text(seconds),
        estimated_completion_time=builder.now + timedelta(seconds=seconds),
        reported_time=builder.now,
    )


def _text(percent: int, counts: EpisodeCounts) -> str:
    failed = f", {counts.failed} failed" if counts.failed else ""
    return f"{percent}% ({counts.done}/{counts.total}{failed})"


def duration_text(seconds: float) -> str:
    """Such as ``1h05m``, ``12m``, ``40s``: as much as a person wants to know."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m" if minutes >= 10 else f"{60 * minutes + whole}s"
