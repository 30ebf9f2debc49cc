"""What an installation gives to all Jobs, puts into every container, and lets a manifest choose."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ResourceMap = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ContainerDefaults:
    """Requests and limits of a container, by resource name; those of a manifest replace them one by one."""

    requests: ResourceMap
    limits: ResourceMap = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaBundle:
    """Certificates of authorities that are trusted: a key of a ConfigMap or of a Secret, one of both."""

    key: str
    config_map_name: str = ""
    secret_name: str = ""


EVERYTHING = ("*",)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a manifest may choose, field by field: texts, or the beginning of a text before ``*``.

    An empty tuple allows nothing: the field can't be set then.
    """

    serving_images: tuple[str, ...] = EVERYTHING
    service_account_names: tuple[str, ...] = EVERYTHING
    priority_class_names: tuple[str, ...] = EVERYTHING
    runtime_class_names: tuple[str, ...] = EVERYTHING
    annotation_keys: tuple[str, ...] = EVERYTHING
    """Of ``spec.workers.pod.annotations``."""


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Of the installation."""

    worker_image: str
    vllm_image: str
    """Of the sidecar, where a manifest names none. Its entry point is ``vllm serve``."""
    image_pull_policy: str = "IfNotPresent"
    """Of the worker's image."""
    plan: ContainerDefaults = ContainerDefaults({"cpu": "500m", "memory": "1Gi"}, {"memory": "4Gi"})
    worker: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "2Gi"}, {"memory": "8Gi"})
    merge: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "2Gi"}, {"memory": "8Gi"})
    sidecar: ContainerDefaults = ContainerDefaults({"cpu": "1", "memory": "8Gi"})
    pod_env: tuple[Mapping[str, Any], ...] = ()
    """EnvVars of all containers, as Kubernetes has them; what a container has of its own wins."""
    ca_bundle: CaBundle | None = None
    """Of all containers, in place of their image's; None: that one."""
    server_host: str = "127.0.0.1"
    """Address that the sidecar listens on. Another than the pod's own lets Prometheus in, and everybody."""
    server_args: tuple[str, ...] = ()
    """Arguments of ``vllm serve``, before those of a manifest: of an option twice, the last holds."""
    allowed: Allowed = Allowed()


_VOLUME: Final = "ca-bundle"
_FOLDER: Final = "/etc/annotationrun-ca"
_FILE: Final = "ca.crt"
_CA_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Read by OpenSSL and what follows it (Python's ssl, httpx, rustls-native-certs), by requests, by curl."""


def with_environment(own: Iterable[dict[str, Any]], settings: JobSettings) -> list[dict[str, Any]]:
    """The EnvVars of a container: its own, then those of the installation whose names are not taken."""
    bundle = f"{_FOLDER}/{_FILE}"
    paths = [{"name": name, "value": bundle} for name in _CA_VARIABLES] if settings.ca_bundle else []
    found = [*own, *paths]
    taken = {variable["name"] for variable in found}
    return [*found, *(dict(variable) for variable in settings.pod_env if variable["name"] not in taken)]


def ca_mounts(settings: JobSettings) -> list[dict[str, Any]]:
    """Where a container has the CA bundle; none: there is no bundle."""
    return [{"name": _VOLUME, "mountPath": _FOLDER, "readOnly": True}] if settings.ca_bundle else []


def ca_volumes(settings: JobSettings) -> list[dict[str, Any]]:
    """The CA bundle as a volume. Its object has to be in the run's namespace, else the pod does not start."""
    bundle = settings.ca_bundle
    if bundle is None:
        return []
    items = [{"key": bundle.key, "path": _FILE}]
    if bundle.secret_name:
        return [{"name": _VOLUME, "secret": {"secretName": bundle.secret_name, "items": items}}]
    return [{"name": _VOLUME, "configMap": {"name": bundle.config_map_name, "items": items}}]
