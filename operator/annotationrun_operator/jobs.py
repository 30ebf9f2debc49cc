"""The Job of a step: its name, and its object as it is created."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

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
from annotationrun_api.spec import KIND, AnnotationRun
from annotationrun_operator.exit_policy import AfterExit, codes_that
from annotationrun_operator.inputs import digest_of
from annotationrun_operator.job_settings import JobSettings
from annotationrun_operator.observation import RunView
from annotationrun_operator.pods import WORKER_CONTAINER, PodPlan, pod_template

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


def job_name(run: RunView, step: Step, plan_digest: str, attempt: int) -> str:
    """Name of a step's Job: the run's, the step, and a hash that tells runs, plans and attempts apart.

    A long run name is cut; the hash covers the run's UID, so that no two runs meet.
    """
    hashed = digest_of([run.uid, step.value, plan_digest, attempt])[:_HASH_CHARACTERS]
    room = MAX_NAME_CHARACTERS - _INDEX_CHARACTERS - len(f"-{Step.ANNOTATE.value}-") - _HASH_CHARACTERS
    return f"{run.name[:room].rstrip('-.')}-{step.value}-{hashed}"


def make_job(run: RunView, manifest: AnnotationRun, plan: JobPlan, settings: JobSettings) -> dict[str, Any]:
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


def _retry_token(run: RunView, manifest: AnnotationRun) -> str:
    """The token where the annotation `requested-at` is given too, as each new value of either is another."""
    requested_at = run.annotations.get(REQUESTED_AT_ANNOTATION, "")
    return digest_of([manifest.spec.retry_token, requested_at]) if requested_at else ""


def _copied(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name.startswith(COPIED_PREFIXES)}
