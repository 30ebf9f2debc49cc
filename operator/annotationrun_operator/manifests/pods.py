"""The pods of a run's steps: a worker, and for the annotate step a model server as native sidecar.

The manifest comes with the pod, as an annotation that the worker has as a file (downward API): so a pod works
by the manifest that its Job was made from, whatever was edited since, and no object beside it is to be kept.

A pod gets of volumes and Secrets what its step needs: one that fetches the model sees no dataset, and the
model server no token but its own.
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotationrun_api.labels import Step
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.step_results import (
    API_KEY_VARIABLE,
    HUB_TOKEN_VARIABLE,
    MANIFEST_ANNOTATION,
    MODEL_TOKEN_VARIABLE,
    PROGRESS_PORT,
    SOURCE_TOKEN_VARIABLE,
    STAGING_KEY_VARIABLE,
)
from annotationrun_operator.manifests.installation import JobSettings, ca_mounts, ca_volumes, with_environment
from annotationrun_operator.manifests.sidecar import (
    CONTAINER_SECURITY,
    HOME,
    MEDIA_FOLDER,
    MODELS_FOLDER,
    POD_SECURITY,
    SERVER_PORT,
    TMP_MOUNT,
    from_secret,
    media_mount,
    models_mount,
    models_volume,
    resources,
    server_volumes,
    sidecar,
)

WORKER_CONTAINER: Final = "worker"
GRACE_SECONDS: Final = 20
MANIFEST_FILE: Final = "/etc/annotationrun/manifest.json"
_TERMINATION_LOG = "/dev/termination-log"
_CACHE_FOLDER = "/cache"
_CACHE_SPARE_BYTES = 1 << 30
"""Over what the cache holds: locks, the metadata as it is read, what is about to be removed."""


def manifest_text(manifest: AnnotationRun) -> str:
    """The manifest as the pods get it: JSON, without labels and annotations."""
    value = manifest.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    value["metadata"] = {"name": manifest.metadata.name}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class PodPlan:
    """Which pods are wanted."""

    step: Step
    plan_digest: str = ""
    """Of the staged plan; empty for the step that makes it."""
    retry_token: str = ""
    """Takes the place of ``spec.retryToken``; empty: that holds."""
    account: str = ""
    """The run's UID: under it all its workers count what they use."""
    source_commit: str = ""
    """Of a source on the Hub, as it was planned; empty: a folder, or not planned yet."""
    cached_commit: str = ""
    """Of the model's files that the cache holds; empty: the server downloads them itself."""
    model_commit: str = ""
    """Of the model, as it was planned; empty: its revision stands for itself, or it is not planned yet."""


def pod_template(
    plan: PodPlan, manifest: AnnotationRun, settings: JobSettings, labels: Mapping[str, str]
) -> dict[str, Any]:
    """The pod template of a step's Job.

    Args:
        plan: which pods.
        manifest: of the run.
        settings: of the installation.
        labels: ours, of the pods.
    """
    step = plan.step
    overlay = manifest.spec.workers.pod
    return {
        "metadata": {
            "labels": {**overlay.labels, **labels},
            "annotations": {**overlay.annotations, MANIFEST_ANNOTATION: manifest_text(manifest)},
        },
        "spec": {
            **_placement(step, manifest.spec),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            **(
                {"initContainers": [sidecar(manifest.spec, settings, plan.cached_commit, plan.model_commit)]}
                if has_sidecar(step, manifest.spec)
                else {}
            ),
            "containers": [_worker(plan, manifest.spec, settings)],
            "volumes": [*_volumes(step, manifest.spec), *ca_volumes(settings)],
        },
    }


def has_sidecar(step: Step, spec: RunSpec) -> bool:
    """Whether pods of the step bring their own model server."""
    return step is Step.ANNOTATE and spec.model.serving.mode == "Sidecar"


def _placement(step: Step, spec: RunSpec) -> dict[str, Any]:
    """Where pods may run. What picks nodes for the model server is for its pods alone: others need no GPU."""
    overlay = spec.workers.pod
    found: dict[str, Any] = {
        "tolerations": [
            toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
            for toleration in overlay.tolerations
        ],
        "priorityClassName": overlay.priority_class_name,
        "serviceAccountName": overlay.service_account_name,
        "imagePullSecrets": [{"name": secret.name} for secret in overlay.image_pull_secrets],
    }
    if step is Step.ANNOTATE:
        found |= {
            "nodeSelector": dict(overlay.node_selector),
            "affinity": dict(overlay.affinity),
            "runtimeClassName": overlay.runtime_class_name,
        }
    return {name: value for name, value in found.items() if value}


def _worker(plan: PodPlan, spec: RunSpec, settings: JobSettings) -> dict[str, Any]:
    step = plan.step
    defaults = {Step.ANNOTATE: settings.worker, Step.MERGE: settings.merge}.get(step, settings.plan)
    given = spec.workers.resources if step is Step.ANNOTATE else None
    store = spec.staging.credentials_secret_ref if step is not Step.PREFETCH else None
    return {
        "name": WORKER_CONTAINER,
        "image": settings.worker_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": _arguments(plan, spec),
        "env": with_environment([HOME, *_secrets(step, spec)], settings),
        **({"envFrom": [{"secretRef": {"name": store.name}}]} if store else {}),
        **(
            {"ports": [{"name": "progress", "containerPort": PROGRESS_PORT}]} if step is Step.ANNOTATE else {}
        ),
        "resources": resources(defaults, given.requests if given else {}, given.limits if given else {}),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "manifest", "mountPath": MANIFEST_FILE.rpartition("/")[0], "readOnly": True},
            TMP_MOUNT,
            *_worker_mounts(step, spec),
            *ca_mounts(settings),
        ],
    }


def _worker_mounts(step: Step, spec: RunSpec) -> list[dict[str, Any]]:
    if step is Step.PREFETCH:
        return [models_mount(spec.model.serving)]
    return [
        *_claim_mounts(spec),
        *([{"name": "hub-cache", "mountPath": _CACHE_FOLDER}] if _uses_hub(spec) else []),
        *([media_mount()] if has_sidecar(step, spec) and spec.model.serving.local_media else []),
    ]


def _secrets(step: Step, spec: RunSpec) -> list[dict[str, Any]]:
    """The EnvVars that hold tokens and keys: what the step needs, no more.

    The token that may write to the output is the merge's alone: whether it may is not seen before.
    """
    source, output, serving = spec.source.token_secret_ref, spec.output.token_secret_ref, spec.model.serving
    seal = from_secret(STAGING_KEY_VARIABLE, spec.staging.integrity_secret_ref)
    match step:
        case Step.PREFETCH:
            return from_secret(HUB_TOKEN_VARIABLE, serving.token_secret_ref)
        case Step.PLAN:
            looked_up = serving.token_secret_ref if spec.model.is_fetched else None
            return [
                *seal,
                *from_secret(HUB_TOKEN_VARIABLE, source),
                *from_secret(MODEL_TOKEN_VARIABLE, looked_up),
            ]
        case Step.ANNOTATE:
            key = from_secret(API_KEY_VARIABLE, serving.api_key_secret_ref)
            return [*seal, *key, *from_secret(HUB_TOKEN_VARIABLE, source)]
        case Step.MERGE:
            reading = source if output is not None and source != output else None
            return [
                *seal,
                *from_secret(HUB_TOKEN_VARIABLE, output or source),
                *from_secret(SOURCE_TOKEN_VARIABLE, reading),
            ]


def _arguments(plan: PodPlan, spec: RunSpec) -> list[str]:
    step = plan.step
    words = [step.value, "--file", MANIFEST_FILE]
    words += _model_words(plan, spec)
    if step is Step.PREFETCH:
        return [*words, "--folder", MODELS_FOLDER, "--result", _TERMINATION_LOG]
    for claim in claims_of(spec):
        words += ["--volume", f"{claim}={_mount_path(claim)}"]
    if plan.retry_token:
        words += ["--retry-token", plan.retry_token]
    if plan.account and step is not Step.PLAN:
        words += ["--account", plan.account]
    if plan.source_commit and step is not Step.PLAN:
        words += ["--revision", plan.source_commit]
    if _uses_hub(spec):
        words += ["--cache", _CACHE_FOLDER]
    if step is not Step.ANNOTATE:
        return [*words, "--result", _TERMINATION_LOG]
    serving = spec.model.serving
    words += ["--plan", plan.plan_digest]
    words += ["--start-timeout-seconds", str(serving.start_timeout_seconds)]
    words += ["--progress-port", str(PROGRESS_PORT)]
    if has_sidecar(step, spec):
        words += ["--gpus", str(serving.gpus)]
        words += ["--endpoint", f"http://127.0.0.1:{SERVER_PORT}/v1"]
        words += ["--media-folder", MEDIA_FOLDER] if serving.local_media else []
    return words


def _model_words(plan: PodPlan, spec: RunSpec) -> list[str]:
    """The plan looks the model's revision up; steps after it are told, as they could find another commit."""
    if plan.step is Step.PLAN:
        return ["--require-model-commit"]
    if plan.step is Step.PREFETCH and not plan.model_commit:
        return []
    return ["--model-revision", plan.model_commit or spec.model.revision]


def _uses_hub(spec: RunSpec) -> bool:
    """Whether source or output lie on the Hub."""
    return spec.source.repo_id is not None or spec.output.repo_id is not None


def _cache_volume(step: Step, spec: RunSpec) -> dict[str, Any]:
    """For files of the Hub. It reserves nothing: the worker keeps to ``cacheBytes``, and leaves disk free.

    Whoever writes more than the limit is evicted. The merge writes the changed data files beside the cached
    ones, which are no more than the cache holds.
    """
    copies = 2 if step is Step.MERGE else 1
    return {
        "name": "hub-cache",
        "emptyDir": {"sizeLimit": str(copies * spec.source.cache_bytes + _CACHE_SPARE_BYTES)},
    }


def claims_of(spec: RunSpec) -> Sequence[str]:
    """The claims that hold source, output and staging, in this order, each once."""
    volumes = (spec.source.volume, spec.output.volume, spec.staging.volume)
    return list(dict.fromkeys(volume.claim_name for volume in volumes if volume is not None))


def _claim_mounts(spec: RunSpec) -> list[dict[str, Any]]:
    """The claims' folders, each at its place below the claim's; nothing beside them can be seen."""
    return [
        {
            "name": _volume_name(number),
            "mountPath": posixpath.normpath(f"{_mount_path(claim)}/{folder}"),
            **({"subPath": folder} if folder else {}),
        }
        for number, claim in enumerate(claims_of(spec))
        for folder in _mounted_folders(spec, claim)
    ]


def _mounted_folders(spec: RunSpec, claim: str) -> list[str]:
    """Folders of a claim that are mounted, less those inside another; alone an empty one: its root."""
    volumes = (spec.source.volume, spec.output.volume, spec.staging.volume)
    named = [posixpath.normpath(one.sub_path or ".") for one in volumes if one and one.claim_name == claim]
    folders = list(dict.fromkeys("" if folder == "." else folder for folder in named))
    if "" in folders:
        return [""]
    return [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]


def _volume_name(number: int) -> str:
    return f"claim-{number}"


def _mount_path(claim: str) -> str:
    return f"/volumes/{claim}"


def _volumes(step: Step, spec: RunSpec) -> list[dict[str, Any]]:
    manifest_field = {"fieldPath": f"metadata.annotations['{MANIFEST_ANNOTATION}']"}
    volumes: list[dict[str, Any]] = [
        {
            "name": "manifest",
            "downwardAPI": {"items": [{"path": "manifest.json", "fieldRef": manifest_field}]},
        },
        {"name": "tmp", "emptyDir": {}},
    ]
    if step is Step.PREFETCH:
        return [*volumes, models_volume(spec.model.serving)]
    volumes += [
        {"name": _volume_name(number), "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(claims_of(spec))
    ]
    volumes += [_cache_volume(step, spec)] if _uses_hub(spec) else []
    return [*volumes, *(server_volumes(spec.model.serving) if has_sidecar(step, spec) else [])]
