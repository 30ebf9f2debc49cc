"""How the operator reaches its API server."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

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
    return configuration


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
