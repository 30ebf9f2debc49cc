"""What all containers of a run's pods have in common: who they run as, what they request, their secrets."""

from collections.abc import Mapping
from typing import Any, Final

from annotationrun_api.spec_types import SecretKeyRef
from annotationrun_operator.job_settings import ContainerDefaults

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
