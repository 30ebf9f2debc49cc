"""How the operator reaches its API server."""

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import kopf
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME

from annotationrun_api.labels import FIELD_MANAGER
from annotationrun_operator.cluster_api import ClusterApi
from annotationrun_operator.errors import ConnectionSettingsError


async def load_configuration() -> Configuration:
    """How to reach the API server: by KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises:
        ConnectionSettingsError: there is neither, or it can't be read.
    """
    configuration = Configuration()
    try:
        path = os.environ.get("KUBECONFIG") or None
        if path is None and os.environ.get(SERVICE_HOST_ENV_NAME):
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]
    except (config.ConfigException, yaml.YAMLError, OSError) as error:
        raise ConnectionSettingsError(
            f"no way to reach an API server: {error}; run the operator in a pod with a service account,"
            f" or set KUBECONFIG (now {os.environ.get('KUBECONFIG', '')!r})"
        ) from error
    # As kopf's watches: a proxy of the environment is for the world outside of the cluster.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.disable_strict_ssl_verification = True  # see WatchConnection
    return configuration


class WatchConnection(kopf.ConnectionInfo):
    """How kopf's watches reach the API server, without the strictness that Python 3.13 has by default.

    Authorities of clusters that were made years ago lack the key identifiers and usages that it asks for
    (https://github.com/kubernetes-client/python/issues/2394). The chain, the name and the dates are checked.
    """

    def as_ssl_context(self) -> ssl.SSLContext:
        """Kopf's own, less one flag."""
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


async def watch_connection() -> WatchConnection:
    """The same way to the API server as that of our own requests; a token is read anew each time.

    Raises:
        ConnectionSettingsError: there is none, or it can't be read.
    """
    configuration = await load_configuration()
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.rpartition(" ")
    return WatchConnection(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )


@asynccontextmanager
async def connected(count: Callable[[str, str, int], None]) -> AsyncIterator[ClusterApi]:
    """The API server of this pod's cluster, or of the kubeconfig file.

    Raises:
        ConnectionSettingsError: there is neither, or it can't be read.
    """
    client = ApiClient(await load_configuration())
    client.user_agent = FIELD_MANAGER
    try:
        yield ClusterApi(client, count)
    finally:
        await client.close()  # type: ignore[no-untyped-call]
