"""What all containers of a run's pods have in common, and the one that serves the model beside a worker.

The server is a native sidecar that runs ``vllm serve``. It has no startup probe: the kubelet would hold the
worker back, and start the server again for ever. The worker itself waits for the server, up to
``spec.model.serving.startTimeoutSeconds``.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from annotationrun_api.prompt_media import PromptMedia
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_model import ServingSpec
from annotationrun_api.spec_types import SecretKeyRef
from annotationrun_api.step_results import HUB_TOKEN_VARIABLE
from annotationrun_operator.manifests.installation import (
    ContainerDefaults,
    JobSettings,
    ca_mounts,
    with_environment,
)

_USER: Final = 65532
"""Nobody on the node: owner of what the pods write."""

POD_SECURITY: Final[Mapping[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
HOME: Final = {"name": "HOME", "value": "/tmp"}  # the pod's own emptyDir  # noqa: S108  # nosec B108
TMP_MOUNT: Final = {"name": "tmp", "mountPath": "/tmp"}  # likewise  # noqa: S108  # nosec B108


def from_secret(variable: str, secret: SecretKeyRef | None) -> list[dict[str, Any]]:
    """The EnvVar that holds a key of a Secret; none where there is no such key."""
    if secret is None:
        return []
    return [{"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}]


def resources(
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


SIDECAR_CONTAINER: Final = "vllm"
SERVER_PORT: Final = 8000
MODELS_FOLDER: Final = "/models"
"""HF_HOME of whoever downloads the model, and of the server that reads it."""
MEDIA_FOLDER: Final = "/media"
"""With ``localMedia``: where the worker writes pictures that the server reads."""
_MEDIA_SIZE = "2Gi"
"""The worker keeps to less (``media_files.py``); a pod that wrote more would be evicted."""


def sidecar(
    spec: RunSpec, settings: JobSettings, cached_commit: str, model_commit: str = ""
) -> dict[str, Any]:
    """The container.

    Args:
        spec: of the run.
        settings: of the installation.
        cached_commit: of the model's files that the cache holds; empty: the server downloads them itself.
        model_commit: of the model, as it was planned; empty: the revision stands for itself.
    """
    revision = cached_commit or model_commit or spec.model.revision
    serving = spec.model.serving
    gpus = {serving.gpu_resource: str(serving.gpus)} if serving.gpus else {}
    given = (*settings.server_args, *serving.args)
    return {
        "name": SIDECAR_CONTAINER,
        "image": serving.image or settings.vllm_image,
        "restartPolicy": "Always",
        "args": [spec.model.id, *_unless_given(_options(spec, settings, revision), given), *given],
        "env": with_environment(_variables(serving, cached_commit), settings),
        "ports": [{"name": "vllm", "containerPort": SERVER_PORT}],
        "resources": resources(
            settings.sidecar, serving.resources.requests | gpus, serving.resources.limits | gpus
        ),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            TMP_MOUNT,
            models_mount(serving, is_read_only=bool(cached_commit)),
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # an emptyDir  # noqa: S108  # nosec B108
            *([{**media_mount(), "readOnly": True}] if serving.local_media else []),
            *ca_mounts(settings),
        ],
    }


def server_volumes(serving: ServingSpec) -> list[dict[str, Any]]:
    """The volumes that the sidecar needs."""
    memory = {"medium": "Memory", "sizeLimit": serving.shared_memory}
    media = [{"name": "media", "emptyDir": {"sizeLimit": _MEDIA_SIZE}}] if serving.local_media else []
    return [models_volume(serving), {"name": "shared-memory", "emptyDir": memory}, *media]


def models_volume(serving: ServingSpec) -> dict[str, Any]:
    """The volume with the model's files: the claim, or the pod's own."""
    cache = serving.cache
    return {
        "name": "models",
        **({"persistentVolumeClaim": {"claimName": cache.claim_name}} if cache else {"emptyDir": {}}),
    }


def models_mount(serving: ServingSpec, *, is_read_only: bool = False) -> dict[str, Any]:
    """Where a container has the model's files."""
    cache = serving.cache
    return {
        "name": "models",
        "mountPath": MODELS_FOLDER,
        **({"subPath": cache.sub_path} if cache and cache.sub_path else {}),
        **({"readOnly": True} if is_read_only else {}),
    }


def media_mount() -> dict[str, Any]:
    """Where a container has the pictures that go as files."""
    return {"name": "media", "mountPath": MEDIA_FOLDER}


def _options(spec: RunSpec, settings: JobSettings, revision: str) -> list[str]:
    model, media = spec.model, PromptMedia.of(spec.modules)
    limits = json.dumps({"image": media.images, "video": media.videos}, separators=(",", ":"))
    return [
        f"--revision={revision}",
        f"--served-model-name={model.id}",
        f"--max-model-len={model.context_tokens}",
        f"--limit-mm-per-prompt={limits}",
        "--enable-prompt-tokens-details",  # else cached tokens are not told
        f"--host={settings.server_host}",
        f"--port={SERVER_PORT}",
        *([f"--allowed-local-media-path={MEDIA_FOLDER}"] if model.serving.local_media else []),
    ]


def _variables(serving: ServingSpec, cached_commit: str) -> list[dict[str, Any]]:
    home = [HOME, {"name": "HF_HOME", "value": MODELS_FOLDER}]
    if not cached_commit:
        return [*home, *from_secret(HUB_TOKEN_VARIABLE, serving.token_secret_ref)]
    return [
        *home,
        {"name": "HF_HUB_OFFLINE", "value": "1"},
        # a model's own code is copied there before it is imported, and the cache can't be written
        {"name": "HF_MODULES_CACHE", "value": "/tmp/hf_modules"},  # likewise  # noqa: S108  # nosec B108
    ]


def _unless_given(options: Iterable[str], given: Iterable[str]) -> list[str]:
    """Those of the options that are not given by somebody else, in whatever spelling vLLM takes."""
    taken = {_name(word) for word in given}
    return [option for option in options if _name(option) not in taken]


def _name(word: str) -> str:
    """Of an option, however it is spelled: ``--limit_mm_per_prompt.image=2`` and ``--no-enable-...`` too."""
    name = word.partition("=")[0].partition(".")[0].replace("_", "-")
    return f"--{name.removeprefix('--no-')}" if name.startswith("--no-") else name
