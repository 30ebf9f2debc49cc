"""All that the operator asks of the API server, and the connections that it asks over.

Raw objects in, raw objects out. The paths are written out: the client's classes for them (`BatchV1Api`,
`CoreV1Api`) cost 100 MiB of memory.
"""

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from typing import Any, cast
from urllib.parse import quote, urlencode

import aiohttp
import kopf
import yaml
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME

from annotationrun_api.labels import API_VERSION, FIELD_MANAGER, GROUP, PLURAL, RUN_UID_LABEL, VERSION
from annotationrun_api.spec import KIND
from annotationrun_operator.errors import (
    ApiConflictError,
    ApiNotFoundError,
    ApiRefusedError,
    ApiUnavailableError,
    ConnectionSettingsError,
)
from annotationrun_operator.observation import RunKey

RawObject = Mapping[str, Any]
"""An object as the API server gives it, as JSON."""

_REQUEST_TIMEOUT_SECONDS = 30.0
_CONNECT_TIMEOUT_SECONDS = 10.0
_PAGE_OBJECTS = 100
"""Whole ones: a pod bears its run's manifest."""
_PAGE_VERSIONS = 500
_EVENTS_SHOWN = 50
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True, slots=True)
class RunVersion:
    """Which version of a run there is."""

    key: RunKey
    uid: str
    resource_version: str


def _nobody(verb: str, resource: str, code: int) -> None:
    """Nobody counts the requests."""


class ClusterApi:
    """The API server; every request ends within 30 s.

    All methods raise `ApiUnavailableError` (try again), `ApiNotFoundError`, `ApiRefusedError`, and those that
    write `ApiConflictError`.
    """

    def __init__(self, client: ApiClient, count: Callable[[str, str, int], None] = _nobody) -> None:
        """Use a client; `count` is told each request's verb, resource and HTTP status (0: no answer)."""
        self._client = client
        self._count = count

    async def is_served(self) -> bool:
        """Whether the API server serves runs: it may not yet know a CRD that was created just now."""
        groups = await self._request("get", "apis", "/apis")
        if GROUP not in {group["name"] for group in groups["groups"]}:
            return False
        resources = await self._request("get", "apis", f"/apis/{API_VERSION}")
        return PLURAL in {resource["name"] for resource in resources["resources"]}

    async def get_run(self, key: RunKey) -> RawObject:
        """The run as it is now, not as a cache has it."""
        return await self._request("get", PLURAL, _run_path(key))

    async def list_run_versions(self, namespace: str | None) -> AsyncIterator[RunVersion]:
        """Which runs there are, in a namespace or in all, by the page; metadata alone is transferred."""
        path = f"/apis/{GROUP}/{VERSION}{_in_namespace(namespace)}/{PLURAL}"
        query = {"limit": str(_PAGE_VERSIONS)}
        async for item in self._list(PLURAL, path, query, accept=_METADATA_ONLY):
            metadata = item["metadata"]
            key = RunKey(metadata["namespace"], metadata["name"])
            yield RunVersion(key, metadata["uid"], metadata["resourceVersion"])

    def list_jobs(self, namespace: str, run_uid: str) -> AsyncIterator[RawObject]:
        """The Jobs that bear the label of a run."""
        return self._list("jobs", _jobs_path(namespace), {"labelSelector": f"{RUN_UID_LABEL}={run_uid}"})

    def list_pods(self, namespace: str, run_uid: str) -> AsyncIterator[RawObject]:
        """The pods that bear the label of a run."""
        return self._list(
            "pods", f"/api/v1{_in_namespace(namespace)}/pods", {"labelSelector": f"{RUN_UID_LABEL}={run_uid}"}
        )

    async def check_children(self, namespace: str | None) -> None:
        """Ask for one Job and one pod: an operator that may not list them learns it at its start."""
        scope = _in_namespace(namespace)
        for resource, path in (("jobs", f"/apis/batch/v1{scope}/jobs"), ("pods", f"/api/v1{scope}/pods")):
            await self._request("list", resource, path, {"limit": "1", "labelSelector": RUN_UID_LABEL})

    async def get_claim(self, namespace: str, name: str) -> RawObject:
        """A PersistentVolumeClaim."""
        path = f"/api/v1{_in_namespace(namespace)}/persistentvolumeclaims/{quote(name, safe='')}"
        return await self._request("get", "persistentvolumeclaims", path)

    async def list_warnings(self, namespace: str, job_uid: str) -> list[RawObject]:
        """The Events of type Warning about a Job."""
        query = {
            "fieldSelector": f"involvedObject.uid={job_uid},type=Warning",
            "limit": str(_EVENTS_SHOWN),
        }
        path = f"/api/v1{_in_namespace(namespace)}/events"
        return list((await self._request("list", "events", path, query))["items"] or ())

    async def get_job(self, namespace: str, name: str) -> RawObject:
        """A Job by its name."""
        return await self._request("get", "jobs", f"{_jobs_path(namespace)}/{quote(name, safe='')}")

    async def create_job(self, namespace: str, manifest: RawObject) -> RawObject:
        """Create a Job; ApiConflictError if one of its name is there."""
        return await self._request(
            "create", "jobs", _jobs_path(namespace), {"fieldManager": FIELD_MANAGER}, manifest
        )

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """Delete a Job and, in the background, its pods; ApiConflictError if it has another UID."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        path = f"{_jobs_path(namespace)}/{quote(name, safe='')}"
        await self._request("delete", "jobs", path, body=options)

    async def write_status(self, key: RunKey, resource_version: str, status: RawObject) -> RawObject:
        """Replace the status of a run; ApiConflictError if the run has changed since that version."""
        run = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "resourceVersion": resource_version,
            },
            "status": status,
        }
        path = f"{_run_path(key)}/status"
        return await self._request("update", f"{PLURAL}/status", path, {"fieldManager": FIELD_MANAGER}, run)

    async def create_event(self, namespace: str, event: RawObject) -> None:
        """Create an Event; ApiConflictError if one of its name is there."""
        await self._request("create", "events", f"/api/v1{_in_namespace(namespace)}/events", body=event)

    async def _list(
        self, resource: str, path: str, query: Mapping[str, str], accept: str = "application/json"
    ) -> AsyncIterator[RawObject]:
        pages = {"limit": str(_PAGE_OBJECTS), **query}
        while True:
            page = await self._request("list", resource, path, pages, accept=accept)
            for item in page["items"] or ():
                yield item
            if not (following := page["metadata"].get("continue")):
                return
            pages["continue"] = following

    async def _request(
        self,
        verb: str,
        resource: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: RawObject | None = None,
        accept: str = "application/json",
    ) -> RawObject:
        what = f"{verb} {resource} at {path}"
        try:
            code, headers, content = await self._exchange(_METHODS[verb], path, query or {}, body, accept)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._count(verb, resource, 0)
            raise ApiUnavailableError(what, f"no answer: {error!r}") from error
        self._count(verb, resource, code)
        if code < HTTPStatus.BAD_REQUEST:
            return _read_json(what, content)
        message = _message_of(content)
        match code:
            case HTTPStatus.NOT_FOUND:
                raise ApiNotFoundError(what, message)
            case HTTPStatus.CONFLICT:
                raise ApiConflictError(what, message)
            case HTTPStatus.UNAUTHORIZED | HTTPStatus.GONE | HTTPStatus.TOO_MANY_REQUESTS:
                raise ApiUnavailableError(what, f"HTTP {code}: {message}", _retry_after(headers))
            case _ if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise ApiUnavailableError(what, f"HTTP {code}: {message}", _retry_after(headers))
            case _:
                raise ApiRefusedError(what, code, message)

    async def _exchange(
        self, method: HTTPMethod, path: str, query: Mapping[str, str], body: RawObject | None, accept: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        request = await self._client.param_serialize(
            method.value,
            path + (f"?{urlencode(query)}" if query else ""),
            header_params={"Accept": accept},
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_SECONDS, connect=_CONNECT_TIMEOUT_SECONDS)
        response = await self._client.call_api(*request, _request_timeout=timeout)
        content: bytes = await response.read()  # type: ignore[no-untyped-call]
        return response.status, response.headers, content


_METHODS = {
    "get": HTTPMethod.GET,
    "list": HTTPMethod.GET,
    "create": HTTPMethod.POST,
    "update": HTTPMethod.PUT,
    "delete": HTTPMethod.DELETE,
}


def _in_namespace(namespace: str | None) -> str:
    return "" if namespace is None else f"/namespaces/{quote(namespace, safe='')}"


def _jobs_path(namespace: str) -> str:
    return f"/apis/batch/v1{_in_namespace(namespace)}/jobs"


def _run_path(key: RunKey) -> str:
    return f"/apis/{API_VERSION}{_in_namespace(key.namespace)}/{PLURAL}/{quote(key.name, safe='')}"


def _read_json(what: str, content: bytes) -> RawObject:
    try:
        return cast(RawObject, json.loads(content))
    except ValueError as error:
        raise ApiUnavailableError(what, f"the answer is no JSON but {content[:200]!r}") from error


def _message_of(content: bytes) -> str:
    """What a `metav1.Status` says; of another answer its beginning."""
    try:
        status = json.loads(content)
    except ValueError:
        return repr(content[:200])
    message = status.get("message") if isinstance(status, dict) else None
    return message if isinstance(message, str) else repr(content[:200])


def _retry_after(headers: Mapping[str, str]) -> float:
    seconds = headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else 0.0


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
