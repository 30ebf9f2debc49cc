"""What the operator knows of a run: its object, Jobs and pods, its claims, and the inputs of its plan.

Values, no API objects.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from annotationrun_api.labels import REQUESTED_AT_ANNOTATION, Step
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.status import RunStatus
from annotationrun_api.step_results import WorkerProgress


class RunKey(NamedTuple):
    """What a run is known by: one that is made again under the same name takes the place of the former."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RunObject:
    """An `AnnotationRun` as the API server gives it."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    manifest: Mapping[str, Any]
    """apiVersion, kind, metadata and spec, unchecked."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    status: RunStatus
    created: datetime
    is_deleting: bool = False


@dataclass(frozen=True, slots=True)
class JobCondition:
    """A condition of a Job that holds (its status is True)."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class JobView:
    """A Job of the run, by its labels."""

    name: str
    uid: str
    step: Step
    attempt: int
    spec_digest: str
    created: datetime
    is_deleting: bool = False
    is_suspended: bool = False
    """Its ``spec.suspend``: Kueue holds it."""
    queue: str = ""
    """Its LocalQueue of Kueue; empty: none."""
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    completions: int = 1
    conditions: tuple[JobCondition, ...] = ()

    def condition(self, kind: str) -> JobCondition | None:
        """The condition of a type, if it holds."""
        return next((found for found in self.conditions if found.type == kind), None)

    @property
    def is_complete(self) -> bool:
        """Whether it ended well."""
        return self.condition("Complete") is not None

    @property
    def has_failed(self) -> bool:
        """Whether it ended without success."""
        return self.condition("Failed") is not None

    @property
    def has_ended(self) -> bool:
        """Whether it ended."""
        return self.is_complete or self.has_failed


@dataclass(frozen=True, slots=True)
class ContainerView:
    """A container of a pod, with its last state."""

    name: str
    image: str = ""
    is_sidecar: bool = False
    is_running: bool = False
    is_ready: bool = False
    restarts: int = 0
    waiting_reason: str = ""
    """Such as ``ImagePullBackOff``; empty if it does not wait."""
    waiting_message: str = ""
    exit_code: int | None = None
    """Of the container as it ended; of a sidecar that runs again, of its last end."""
    exit_reason: str = ""
    """Such as ``OOMKilled``."""
    exit_message: str = ""
    """Its termination message, or the end of its log."""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of one of the Jobs."""

    name: str
    uid: str
    job_name: str
    step: Step
    phase: str
    created: datetime
    ip: str = ""
    is_deleting: bool = False
    is_scheduled: bool = True
    unscheduled_reason: str = ""
    """Of the condition PodScheduled that does not hold, such as ``Unschedulable``."""
    unscheduled_message: str = ""
    is_disrupted: bool = False
    """Whether it has the condition DisruptionTarget."""
    ended: datetime | None = None
    gpus: int = 0
    """GPUs that its containers request, of whatever resource."""
    containers: tuple[ContainerView, ...] = ()

    def container(self, name: str) -> ContainerView | None:
        """The container of a name."""
        return next((found for found in self.containers if found.name == name), None)

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A PersistentVolumeClaim."""

    name: str
    access_modes: tuple[str, ...]
    phase: str
    """Such as ``Bound``."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A warning event of a Job: that its pods can't be created is told nowhere else."""

    reason: str
    """Such as ``FailedCreate``."""
    message: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server refused to create a Job, at the last try."""

    job_name: str
    code: int
    """HTTP status."""
    message: str
    time: datetime
    is_conflict: bool = False
    """A Job of that name is there that is not ours."""


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision is made from, besides the time."""

    run: RunObject
    jobs: tuple[JobView, ...] = ()
    """By the run's UID; those that are being deleted too."""
    pods: tuple[PodView, ...] = ()
    claims: Mapping[str, ClaimView] = field(default_factory=dict)
    """Those of the spec that exist, by name."""
    job_events: tuple[JobEvent, ...] = ()
    """Of the Job at work, when it has no pods."""
    progress: WorkerProgress | None = None
    """What one running worker tells."""
    progress_error: str = ""
    """Why the worker that was asked did not tell; empty if none was asked."""
    refusal: Refusal | None = None


_HELD = {"suspend", "ttlSecondsAfterFinished"}
"""Fields that change nothing of what a run does, only when."""
_PLANNED = (
    "source",
    "model",
    "modules",
    "prompts",
    "seed",
    "outputLanguage",
    "frames",
    "staging",
    "retryToken",
)
"""Fields that results depend on, or where they lie."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Digests of parts of a spec, each SHA-256 in hexadecimal."""

    plan: str
    """Of what results depend on: another value stops what is going on, and plans anew."""
    merge: str
    """Of what the merge depends on besides the results."""
    run: str
    """Of all but suspend, TTL and follow: a run that failed is tried again when it changes."""


def digest_of(value: object) -> str:
    """SHA-256 over the JSON of ``value``, keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_inputs(manifest: AnnotationRun, annotations: Mapping[str, str]) -> Inputs:
    """The digests of a run's spec; `requested-at` counts as `retryToken` does."""
    spec: dict[str, Any] = manifest.spec.model_dump(mode="json", by_alias=True)
    del spec["source"]["follow"]  # it says when to look, not what to do
    requested_at = annotations.get(REQUESTED_AT_ANNOTATION, "")
    output, policy = spec["output"], spec["failurePolicy"]
    planned = {name: spec[name] for name in _PLANNED}
    planned["source"] = _without(spec["source"], "tokenSecretRef", "cacheBytes")
    # not where it is served, but whether the revision is looked up
    planned["model"] = _without(spec["model"], "serving") | {"mode": manifest.spec.model.serving.mode}
    planned["frames"] = _without(spec["frames"], "cacheBytes")
    planned["staging"] = _without(spec["staging"], "credentialsSecretRef")
    asked = {
        "existingRows": output["existingRows"],
        "maxUnansweredPercent": policy["maxUnansweredPercent"],
        "requestedAt": requested_at,
    }
    return Inputs(
        plan=digest_of(planned | asked),
        merge=digest_of([_without(output, "tokenSecretRef"), policy["maxFailedEpisodes"]]),
        run=digest_of([_without(spec, *_HELD), requested_at]),
    )


def fetched_from(spec: RunSpec, model_commit: str) -> list[str] | None:
    """What a prefetch Job is made from; None where the model needs none.

    That is where others serve it, where no claim keeps it, and where its name is that of a folder.

    Args:
        spec: of the run.
        model_commit: of the model, as it was planned; empty: the revision stands for itself.
    """
    model, cache = spec.model, spec.model.serving.mounted_cache
    if cache is None or not model.is_fetched:
        return None
    return [model.id, model_commit or model.revision, cache.claim_name, cache.sub_path or ""]


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in names}
