"""Calls to a real API server, for tests: one connection at a time, JSON in and out."""

import http.client
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.05
CALL_SECONDS = 120.0
IDLE_SECONDS = 30.0
"""After so long without a call the next one gets a connection of its own: API servers close idle ones."""

RUNS = "/apis/annotationrun.dev/v1alpha1/namespaces/{}/annotationruns"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
ALL_JOBS = "/apis/batch/v1/jobs"
PODS = "/api/v1/namespaces/{}/pods"

_PATCH = "application/merge-patch+json"
_ValueT = TypeVar("_ValueT")


class ApiError(RuntimeError):
    """The API server answered with an error."""

    def __init__(self, what: str, code: int, content: str) -> None:
        super().__init__(f"{what}: HTTP {code}: {content}")
        self.code = code


@dataclass(frozen=True)
class ClientCertificate:
    """What a client of an API server shows, and the authority that it trusts."""

    authority: Path
    certificate: Path
    key: Path

    def ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority))
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass
class KubeApi:
    """An API server at a URL, called with a client's certificate; without one a proxy's, by plain HTTP."""

    server: str
    client_certificate: ClientCertificate | None = None
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)
    _last_call: float = field(default=0.0, repr=False)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """ApiError for an answer from 400 on."""
        code, content = self._exchange(method, path, None if body is None else json.dumps(body))
        if code >= 400:
            raise ApiError(f"{method} {path}", code, content)
        return json.loads(content)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def items(self, path: str) -> list[dict[str, Any]]:
        return self.get(path)["items"] or []

    def create(self, path: str, body: object) -> Any:
        return self.call("POST", path, body)

    def patch(self, path: str, body: object) -> Any:
        return self.call("PATCH", path, body)

    def delete(self, path: str, **options: object) -> Any:
        return self.call("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})

    def events_since(self, path: str, version: str) -> list[dict[str, Any]]:
        """All that a watch tells that begins at a version, until now."""
        query = f"?watch=1&resourceVersion={version}&timeoutSeconds=1"
        _, content = self._exchange("GET", path + query, None)
        events = [json.loads(line) for line in content.splitlines()]
        assert all(event["type"] != "ERROR" for event in events), events
        return events

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        if time.monotonic() - self._last_call > IDLE_SECONDS:
            self.close()
        if self._connection is None:
            self._connection = self._connect()
        kind = _PATCH if method == "PATCH" else "application/json"
        try:
            self._connection.request(method, path, body, {"Content-Type": kind, "Accept": "application/json"})
            response = self._connection.getresponse()
            content = response.read().decode()
        except BaseException:
            self.close()  # what is left of the answer must not be taken for the next one's
            raise
        self._last_call = time.monotonic()
        return response.status, content

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.server).netloc
        if self.client_certificate is None:
            return http.client.HTTPConnection(address, timeout=CALL_SECONDS)
        context = self.client_certificate.ssl_context()
        return http.client.HTTPSConnection(address, context=context, timeout=CALL_SECONDS)


def wait_for(
    what: str, found: Callable[[], _ValueT | None], patience_seconds: float = PATIENCE_SECONDS
) -> _ValueT:
    """Look again and again until there is a value that is true; AssertionError if that takes too long."""
    deadline = time.monotonic() + patience_seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what} did not come within {patience_seconds:.0f} s"
        time.sleep(POLL_SECONDS)
    return value
