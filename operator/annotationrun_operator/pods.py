"""The pods of a run's steps: a worker, and for the annotate step a model server as native sidecar.

The manifest comes with the pod, as an annotation that the worker has as a file (downward API): so a pod works
by the manifest that its Job was made from, whatever was edited since, and no object beside it is to be kept.

The sidecar has no startup probe: the kubelet would hold the worker back, and start the server again for ever.
The worker itself waits for the server, up to ``spec.model.serving.startTimeoutSeconds``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotationrun_api.labels import Step
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.step_results import API_KEY_VARIABLE, MANIFEST_ANNOTATION, PROGRESS_PORT
from annotationrun_operator.job_settings import ContainerDefaults, JobSettings
from annotationrun_operator.pod_environment import ca_mounts, ca_volumes, with_environment

WORKER_CONTAINER: Final = "worker"
SIDECAR_CONTAINER: Final = "vllm"
SERVER_PORT: Final = 8000
GRACE_SECONDS: Final = 20
MANIFEST_FILE: Final = "/etc/annotationrun/manifest.json"
_TERMINATION_LOG = "/dev/termination-log"
_USER = 65532
"""Nobody on the node: owner of what the pods write."""

_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


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
            "securityContext": _POD_SECURITY,
            **(
                {"initContainers": [_sidecar(manifest.spec, settings)]}
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
    defaults = {Step.PLAN: settings.plan, Step.ANNOTATE: settings.worker, Step.MERGE: settings.merge}[step]
    given = spec.workers.resources if step is Step.ANNOTATE else None
    env: list[dict[str, Any]] = [{"name": "HOME", "value": "/tmp"}]  # noqa: S108  (the pod's own emptyDir)
    key = spec.model.serving.api_key_secret_ref
    if step is Step.ANNOTATE and key is not None:
        env.append(
            {
                "name": API_KEY_VARIABLE,
                "valueFrom": {"secretKeyRef": {"name": key.name, "key": key.key}},
            }
        )
    store = spec.staging.credentials_secret_ref
    return {
        "name": WORKER_CONTAINER,
        "image": settings.worker_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": _arguments(plan, spec),
        "env": with_environment(env, settings),
        **({"envFrom": [{"secretRef": {"name": store.name}}]} if store else {}),
        **(
            {"ports": [{"name": "progress", "containerPort": PROGRESS_PORT}]} if step is Step.ANNOTATE else {}
        ),
        "resources": _resources(defaults, given.requests if given else {}, given.limits if given else {}),
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "manifest", "mountPath": MANIFEST_FILE.rpartition("/")[0], "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            *(
                {"name": _volume_name(number), "mountPath": _mount_path(claim)}
                for number, claim in enumerate(claims_of(spec))
            ),
            *ca_mounts(settings),
        ],
    }


def _arguments(plan: PodPlan, spec: RunSpec) -> list[str]:
    step = plan.step
    words = [step.value, "--file", MANIFEST_FILE]
    for claim in claims_of(spec):
        words += ["--volume", f"{claim}={_mount_path(claim)}"]
    if plan.retry_token and step is not Step.PLAN:
        words += ["--retry-token", plan.retry_token]
    if plan.account and step is not Step.PLAN:
        words += ["--account", plan.account]
    if step is not Step.ANNOTATE:
        return [*words, "--result", _TERMINATION_LOG]
    words += ["--plan", plan.plan_digest]
    words += ["--start-timeout-seconds", str(spec.model.serving.start_timeout_seconds)]
    words += ["--progress-port", str(PROGRESS_PORT)]
    if has_sidecar(step, spec):
        words += ["--gpus", str(spec.model.serving.gpus)]
        words += ["--endpoint", f"http://127.0.0.1:{SERVER_PORT}/v1"]
    return words


def _sidecar(spec: RunSpec, settings: JobSettings) -> dict[str, Any]:
    serving, model = spec.model.serving, spec.model
    gpus = {serving.gpu_resource: str(serving.gpus)} if serving.gpus else {}
    return {
        "name": SIDECAR_CONTAINER,
        "image": serving.image or settings.vllm_image,
        "restartPolicy": "Always",
        "args": [
            model.id,
            f"--revision={model.revision}",
            f"--served-model-name={model.id}",
            f"--max-model-len={model.context_tokens}",
            f"--host={settings.server_host}",
            f"--port={SERVER_PORT}",
            *settings.server_args,
            *serving.args,
        ],
        "env": with_environment(
            [
                {"name": "HOME", "value": "/tmp"},  # noqa: S108
                {"name": "HF_HOME", "value": "/models"},
            ],
            settings,
        ),
        "ports": [{"name": "vllm", "containerPort": SERVER_PORT}],
        "resources": _resources(
            settings.sidecar, serving.resources.requests | gpus, serving.resources.limits | gpus
        ),
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {
                "name": "models",
                "mountPath": "/models",
                **({"subPath": serving.cache.sub_path} if serving.cache and serving.cache.sub_path else {}),
            },
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
            *ca_mounts(settings),
        ],
    }


def _resources(
    defaults: ContainerDefaults, requests: Mapping[str, str], limits: Mapping[str, str]
) -> dict[str, Any]:
    """Each default holds for a resource that is neither requested nor limited in the manifest."""
    named = requests.keys() | limits.keys()
    found = {
        "requests": {**_rest(defaults.requests, named), **requests},
        "limits": {**_rest(defaults.limits, named), **limits},
    }
    return {name: value for name, value in found.items() if value}


def _rest(defaults: Mapping[str, str], named: set[str]) -> dict[str, str]:
    return {name: value for name, value in defaults.items() if name not in named}


def claims_of(spec: RunSpec) -> Sequence[str]:
    """The claims that hold source, output and staging, in this order, each once."""
    volumes = (spec.source.volume, spec.output.volume, spec.staging.volume)
    return list(dict.fromkeys(volume.claim_name for volume in volumes if volume is not None))


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
        *(
            {"name": _volume_name(number), "persistentVolumeClaim": {"claimName": claim}}
            for number, claim in enumerate(claims_of(spec))
        ),
    ]
    if has_sidecar(step, spec):
        serving = spec.model.serving
        models = (
            {"persistentVolumeClaim": {"claimName": serving.cache.claim_name}}
            if serving.cache
            else {"emptyDir": {}}
        )
        memory = {"emptyDir": {"medium": "Memory", "sizeLimit": serving.shared_memory}}
        volumes += [{"name": "models", **models}, {"name": "shared-memory", **memory}]
    return volumes
