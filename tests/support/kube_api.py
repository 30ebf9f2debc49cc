"""Calls to a real API server, for tests: one connection, JSON in and out."""

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

RUNS = "/apis/annotationrun.dev/v1alpha1/namespaces/{}/annotationruns"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
PODS = "/api/v1/namespaces/{}/pods"

_PATCH = "application/merge-patch+json"
_ValueT = TypeVar("_ValueT")


class ApiError(RuntimeError):
    """The API server answered with an error."""

    def __init__(self, what: str, code: int, content: str) -> None:
        super().__init__(f"{what}: HTTP {code}: {content}")
        self.code = code


@dataclass
class KubeApi:
    """An API server at a URL, called with a client's certificate."""

    server: str
    authority: Path
    certificate: Path
    key: Path
    _connection: http.client.HTTPSConnection | None = field(default=None, repr=False)

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
        return [json.loads(line) for line in content.splitlines()]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, str]:
        if self._connection is None:
            context = ssl.create_default_context(cafile=str(self.authority))
            context.load_cert_chain(self.certificate, self.key)
            self._connection = http.client.HTTPSConnection(
                urlsplit(self.server).netloc, context=context, timeout=60
            )
        kind = _PATCH if method == "PATCH" else "application/json"
        self._connection.request(method, path, body, {"Content-Type": kind, "Accept": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read().decode()


def wait_for(
    what: str, found: Callable[[], _ValueT | None], patience_seconds: float = PATIENCE_SECONDS
) -> _ValueT:
    """Look again and again until there is a value that is true; AssertionError if that takes too long."""
    deadline = time.monotonic() + patience_seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{what} did not come within {patience_seconds:.0f} s"
        time.sleep(POLL_SECONDS)
    return value
