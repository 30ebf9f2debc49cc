"""A decision, and the status that it is made of: what is to be written, done and announced."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from annotationrun_api.conditions import (
    STEP_CONDITIONS,
    ConditionType,
    condition,
    find_condition,
    with_condition,
)
from annotationrun_api.labels import Step
from annotationrun_api.reasons import NOTHING, Reason, find_reason
from annotationrun_api.spec import AnnotationRun
from annotationrun_api.status import RunStatus, StepStatus
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.observation import Inputs, JobView, Observation


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create a Job; one of the same name is adopted if it is ours and of the same spec digest."""

    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The Job's name."""
        return str(self.manifest["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job and, in the background, its pods."""

    name: str
    uid: str
    """Precondition: another Job of that name is left alone."""


Action = CreateJob | DeleteJob


@dataclass(frozen=True, slots=True)
class Announcement:
    """An Event about the run."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The status is written first, if it changed; the actions follow only if that succeeded."""

    status: RunStatus
    actions: tuple[Action, ...] = ()
    announcements: tuple[Announcement, ...] = ()
    recheck_seconds: float | None = None
    """Look again after so long, though nothing changes: a deadline, a slow retry, progress."""


StateKind = Literal["Working", "Complete", "Failed", "Stalled", "Suspended"]
StepCondition = tuple[bool, Reason, str]
"""Whether it holds, why, and a message."""


@dataclass(frozen=True, slots=True)
class State:
    """What the run is in."""

    kind: StateKind
    reason: Reason
    message: str


@dataclass(slots=True)
class StatusBuilder:
    """Of one reconcile."""

    seen: Observation
    now: datetime
    settings: JobSettings
    status: RunStatus
    actions: list[Action] = field(default_factory=list)
    announcements: list[Announcement] = field(default_factory=list)
    recheck_seconds: float | None = None
    steps: dict[ConditionType, StepCondition] = field(default_factory=dict)
    """Conditions of the steps, as far as they change."""

    def set(self, **fields: object) -> None:
        """Change fields of the status."""
        self.status = self.status.model_copy(update=fields)

    def step(self, step: Step) -> StepStatus:
        """The status of a step."""
        return {
            Step.PLAN: self.status.plan,
            Step.PREFETCH: self.status.prefetch,
            Step.ANNOTATE: self.status.annotate,
            Step.MERGE: self.status.merge,
        }[step]

    def set_step(self, step: Step, **fields: object) -> None:
        """Change fields of a step's status."""
        self.set(**{step.value: self.step(step).model_copy(update=fields)})

    def recheck(self, seconds: float) -> None:
        """Look again after so long, or earlier."""
        seconds = max(1.0, seconds)
        self.recheck_seconds = seconds if self.recheck_seconds is None else min(self.recheck_seconds, seconds)

    def delete(self, job: JobView) -> None:
        """Delete a Job that is not being deleted yet."""
        if job.is_deleting or any(isinstance(old, DeleteJob) and old.uid == job.uid for old in self.actions):
            return
        self.actions.append(DeleteJob(job.name, job.uid))
        if not job.has_ended:
            self.announcements.append(Announcement("Normal", Reason.JOB_DELETED, f"Job {job.name}"))

    def live_jobs(self) -> list[JobView]:
        """The Jobs that have not ended."""
        return [job for job in self.seen.jobs if not job.has_ended]

    def finalize(self, state: State) -> Decision:
        """The decision, with the conditions of a state."""
        before = find_condition(self.status.conditions, ConditionType.READY)
        if before is None or before.reason != state.reason.value:
            is_bad = state.kind in ("Failed", "Stalled")
            self.announcements.append(
                Announcement("Warning" if is_bad else "Normal", state.reason, state.message)
            )
        self._set_conditions(state)
        self.set(observed_generation=self.seen.run.generation)
        return Decision(self.status, tuple(self.actions), tuple(self.announcements), self.recheck_seconds)

    def _set_conditions(self, state: State) -> None:
        found: dict[ConditionType, StepCondition] = {
            ConditionType.READY: (state.kind == "Complete", state.reason, state.message)
        }
        for kind, holding in (
            (ConditionType.RECONCILING, ("Working",)),
            (ConditionType.STALLED, ("Failed", "Stalled")),
            (ConditionType.COMPLETE, ("Complete",)),
            (ConditionType.FAILED, ("Failed",)),
            (ConditionType.SUSPENDED, ("Suspended",)),
        ):
            found[kind] = (
                state.kind in holding,
                state.reason,
                state.message if state.kind in holding else "",
            )
        for kind in STEP_CONDITIONS:
            known = find_condition(self.status.conditions, kind)
            if kind in self.steps:
                found[kind] = self.steps[kind]
            elif known is None:
                found[kind] = (False, Reason.NOT_STARTED, "")
            else:
                reason = find_reason(known.reason) or Reason.IN_PROGRESS
                found[kind] = (known.status == "True", reason, known.message)
        conditions = self.status.conditions
        for kind, (holds, reason, message) in found.items():
            conditions = with_condition(
                conditions,
                condition(kind, holds, reason, message, generation=self.seen.run.generation, now=self.now),
            )
        self.set(conditions=conditions)


def with_remedy(reason: Reason, message: str) -> str:
    """What happened, and what a person does about it."""
    said = message.rstrip(". \n")
    happened = f"{reason.happened} {said}." if said else reason.happened
    return happened if reason.remedy == NOTHING else f"{happened} {reason.remedy}"


@dataclass(frozen=True, slots=True)
class ReconcileContext:
    """The decision in the making, the manifest, and its digests."""

    builder: StatusBuilder
    manifest: AnnotationRun
    inputs: Inputs
