"""The Job of a step as it is created, and what follows each exit code of its pods.

The exit codes are one table that Jobs, messages and steps go by. A failure that another try can't heal ends
the Job at once; others are tried again as often as the Job may.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import (
    API_VERSION,
    APP_NAME,
    ATTEMPT_LABEL,
    COMPONENT_LABEL,
    COPIED_PREFIXES,
    KUEUE_QUEUE_LABEL,
    MANAGED_BY_LABEL,
    NAME_LABEL,
    PART_OF_LABEL,
    REQUESTED_AT_ANNOTATION,
    RUN_NAME_LABEL,
    RUN_UID_LABEL,
    SPEC_DIGEST_ANNOTATION,
    STEP_LABEL,
    Step,
)
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import KIND, AnnotationRun
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.manifests.pods import WORKER_CONTAINER, PodPlan, pod_template
from annotationrun_operator.observation import RunObject, digest_of


class AfterExit(Enum):
    """What follows the end of a worker."""

    DONE = auto()
    """The pod has done its work."""
    IGNORE = auto()
    """The pod was stopped: it counts as no try."""
    RETRY_THEN_GO_ON = auto()
    """Tried again; at last the merge looks what there is, and what is missing gets another attempt."""
    RETRY_THEN_END = auto()
    """Tried again; at last the run ends."""
    GO_ON = auto()
    """The Job ends at once; the run goes on by what there is."""
    PLAN_AGAIN = auto()
    """The Job ends at once; the run is planned anew, a few times."""
    END = auto()
    """The Job and the run end at once: the same input fails again."""


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Of an exit code."""

    after: AfterExit
    reason: Reason
    """Of a failure by it."""

    @property
    def ends_job(self) -> bool:
        """Whether the Job ends at once, with whatever tries it has left."""
        return self.after in {AfterExit.GO_ON, AfterExit.PLAN_AGAIN, AfterExit.END}

    @property
    def ends_run(self) -> bool:
        """Whether the run ends once the Job has: another attempt would fail alike."""
        return self.after in {AfterExit.RETRY_THEN_END, AfterExit.END}


EXIT_POLICIES: Final[Mapping[ExitCode, ExitPolicy]] = {
    ExitCode.OK: ExitPolicy(AfterExit.DONE, Reason.SUCCEEDED),
    ExitCode.FAILED: ExitPolicy(AfterExit.RETRY_THEN_GO_ON, Reason.PODS_FAILED),
    ExitCode.USAGE: ExitPolicy(AfterExit.END, Reason.CONFIGURATION_REFUSED),
    ExitCode.CONFIGURATION: ExitPolicy(AfterExit.END, Reason.CONFIGURATION_REFUSED),
    ExitCode.DATASET: ExitPolicy(AfterExit.END, Reason.DATASET_UNREADABLE),
    ExitCode.INCOMPLETE: ExitPolicy(AfterExit.GO_ON, Reason.PODS_FAILED),
    ExitCode.SERVER_NOT_READY: ExitPolicy(AfterExit.RETRY_THEN_END, Reason.SERVER_NOT_READY),
    ExitCode.STORAGE: ExitPolicy(AfterExit.RETRY_THEN_END, Reason.STORAGE_FAILED),
    ExitCode.OUTPUT_MOVED: ExitPolicy(AfterExit.PLAN_AGAIN, Reason.OUTPUT_MOVED),
    ExitCode.OUTPUT: ExitPolicy(AfterExit.END, Reason.OUTPUT_REFUSED),
    ExitCode.INTERRUPTED: ExitPolicy(AfterExit.IGNORE, Reason.PODS_FAILED),
}
"""Every code that a worker ends with by itself."""

_OF_OTHERS: Final = ExitPolicy(AfterExit.RETRY_THEN_GO_ON, Reason.PODS_FAILED)
"""Of a code that no worker gives, as of a signal: 137, 139."""


def policy_of(code: int) -> ExitPolicy:
    """What follows an exit code, be it of a worker or of a signal."""
    return next((policy for known, policy in EXIT_POLICIES.items() if known == code), _OF_OTHERS)


def codes_that(holds: Callable[[ExitPolicy], bool]) -> list[int]:
    """The exit codes of whose policies it ``holds``, in order."""
    return sorted(int(code) for code, policy in EXIT_POLICIES.items() if holds(policy))


MAX_NAME_CHARACTERS: Final = 63
_INDEX_CHARACTERS = 5
"""Pods of an Indexed Job have ``-<index>`` behind the Job's name as host name; an index has 4 digits."""
_HASH_CHARACTERS = 8

_RETRIES = 3


@dataclass(frozen=True, slots=True)
class JobPlan:
    """Which Job is wanted."""

    step: Step
    attempt: int
    name: str
    plan_digest: str = ""
    """Of the staged plan; empty for the step that makes it."""
    pods: int = 1
    """Of the annotate step."""
    source_commit: str = ""
    """Of a source on the Hub, as it was planned; empty: a folder, or not planned yet."""
    cached_commit: str = ""
    """Of the model's files that the cache holds, for the annotate step; empty: servers download them."""
    model_commit: str = ""
    """Of the model, as it was planned; empty: its revision stands for itself, or it is not planned yet."""


def job_name(run: RunObject, step: Step, plan_digest: str, attempt: int) -> str:
    """Name of a step's Job: the run's, the step, and a hash that tells runs, plans and attempts apart.

    A long run name is cut; the hash covers the run's UID, so that no two runs meet.
    """
    hashed = digest_of([run.uid, step.value, plan_digest, attempt])[:_HASH_CHARACTERS]
    room = MAX_NAME_CHARACTERS - _INDEX_CHARACTERS - len(f"-{Step.ANNOTATE.value}-") - _HASH_CHARACTERS
    return f"{run.name[:room].rstrip('-.')}-{step.value}-{hashed}"


def make_job(run: RunObject, manifest: AnnotationRun, plan: JobPlan, settings: JobSettings) -> dict[str, Any]:
    """The Job's object for the API server."""
    labels = {
        NAME_LABEL: APP_NAME,
        PART_OF_LABEL: APP_NAME,
        MANAGED_BY_LABEL: f"{APP_NAME}-operator",
        COMPONENT_LABEL: plan.step.value,
        RUN_NAME_LABEL: run.name,
        RUN_UID_LABEL: run.uid,
        STEP_LABEL: plan.step.value,
        ATTEMPT_LABEL: str(plan.attempt),
    }
    queue = manifest.spec.queue_name or run.labels.get(KUEUE_QUEUE_LABEL)
    spec = {
        **_counts(plan),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        **({"suspend": True} if queue else {}),
        "template": pod_template(
            PodPlan(
                plan.step,
                plan.plan_digest,
                _retry_token(run, manifest),
                account=run.uid,
                source_commit=plan.source_commit,
                cached_commit=plan.cached_commit,
                model_commit=plan.model_commit,
            ),
            manifest,
            settings,
            labels,
        ),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": plan.name,
            "namespace": run.namespace,
            "labels": {**_copied(run.labels), **({KUEUE_QUEUE_LABEL: queue} if queue else {}), **labels},
            "annotations": {SPEC_DIGEST_ANNOTATION: digest_of(spec)},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": run.name,
                    "uid": run.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": spec,
    }


def _counts(plan: JobPlan) -> dict[str, Any]:
    if plan.step is not Step.ANNOTATE:
        return {"completions": 1, "parallelism": 1, "backoffLimit": _RETRIES}
    return {
        "completionMode": "Indexed",
        "completions": plan.pods,
        "parallelism": plan.pods,
        "backoffLimit": max(_RETRIES, plan.pods),
    }


def _failure_rules() -> list[dict[str, Any]]:
    def exits(action: str, codes: list[int]) -> dict[str, Any]:
        return {
            "action": action,
            "onExitCodes": {
                "containerName": WORKER_CONTAINER,
                "operator": "In",
                "values": codes,
            },
        }

    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        exits("Ignore", codes_that(lambda policy: policy.after is AfterExit.IGNORE)),
        exits("FailJob", codes_that(lambda policy: policy.ends_job)),
    ]


def _retry_token(run: RunObject, manifest: AnnotationRun) -> str:
    """The token where the annotation `requested-at` is given too, as each new value of either is another."""
    requested_at = run.annotations.get(REQUESTED_AT_ANNOTATION, "")
    return digest_of([manifest.spec.retry_token, requested_at]) if requested_at else ""


def _copied(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name.startswith(COPIED_PREFIXES)}
