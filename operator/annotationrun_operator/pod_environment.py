"""What an installation puts into every container of every run: environment variables and a CA bundle."""

from collections.abc import Iterable
from typing import Any, Final

from annotationrun_operator.job_settings import JobSettings

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
