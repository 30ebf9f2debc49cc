"""An API server's lists, watches and reads over real HTTP, for more objects than a real one makes in seconds.

It holds runs and pods that a tenant made. It pages lists as an API server does, and knows no rule beyond.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from annotationrun_api.labels import GROUP, PLURAL, RUN_NAME_LABEL, RUN_UID_LABEL, VERSION

_KINDS = {
    "": {"Pod": "pods", "Namespace": "namespaces", "Event": "events"},
    "batch": {"Job": "jobs"},
    "apiextensions.k8s.io": {"CustomResourceDefinition": "customresourcedefinitions"},
    GROUP: {"AnnotationRun": PLURAL},
}
_VERSIONS = {"": "v1", "batch": "v1", "apiextensions.k8s.io": "v1", GROUP: VERSION}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


@dataclass
class CrowdedApi:
    """What it holds, and what it was asked."""

    objects: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"pods": [], "jobs": [], PLURAL: []}
    )
    url: str = ""
    runs_read: set[str] = field(default_factory=set)
    """Names of runs that were read one by one."""
    before_page: Callable[[], None] = lambda: None
    """Called before each answer to a list."""
    largest_page: int = 0
    """Whole objects in the largest answer to a list."""

    def add_run(self, name: str, spec: Mapping[str, Any]) -> None:
        """A run in the namespace robots."""
        run = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "AnnotationRun",
            "metadata": {
                **self._metadata(name),
                "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": spec,
        }
        self.objects[PLURAL].append(run)

    def add_pod(self, name: str, run: str) -> None:
        """A pod that bears a run's labels, in the namespace robots."""
        labels = {RUN_NAME_LABEL: run, RUN_UID_LABEL: f"uid-of-{run}"}
        self.objects["pods"].append({"metadata": {**self._metadata(name), "labels": labels}})

    def _metadata(self, name: str) -> dict[str, Any]:
        number = sum(map(len, self.objects.values())) + 1
        return {"name": name, "namespace": "robots", "uid": f"uid-{number}", "resourceVersion": str(number)}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        words = [word for word in request.path.split("/") if word]
        if words in (["api"], ["apis"]):
            return web.json_response(
                {"versions": ["v1"], "groups": [_group(name) for name in _KINDS if name]}
            )
        group, rest = ("", words[2:]) if words[0] == "api" else (words[1], words[3:])
        if not rest:
            return web.json_response({"resources": _resources(group)})
        if rest[0] == "namespaces":
            rest = rest[2:]
        if request.method != "GET":
            return web.json_response(await request.json())
        if request.query.get("watch"):
            return await _silence(request)
        if len(rest) == 1:
            return self._list(request, rest[0])
        return self._read(*rest[:2])

    def _list(self, request: web.Request, plural: str) -> web.Response:
        self.before_page()
        found = self.objects.get(plural, [])
        selector = request.query.get("labelSelector", "")
        if "=" in selector:
            label, _, value = selector.partition("=")
            found = [one for one in found if one["metadata"].get("labels", {}).get(label) == value]
        begin = int(request.query.get("continue", "0"))
        end = min(len(found), begin + int(request.query.get("limit", str(len(found)))))
        if "PartialObjectMetadata" not in request.headers.get("Accept", ""):
            self.largest_page = max(self.largest_page, end - begin)
        following = str(end) if end < len(found) else ""
        metadata = {"resourceVersion": "1000000", "continue": following}
        return web.json_response({"metadata": metadata, "items": found[begin:end]})

    def _read(self, plural: str, name: str) -> web.Response:
        if plural == PLURAL:
            self.runs_read.add(name)
        for one in self.objects.get(plural, []):
            if one["metadata"]["name"] == name:
                return web.json_response(one)
        return web.json_response({"kind": "Status", "message": f"{name} not found"}, status=404)


@contextmanager
def crowded_api(api: CrowdedApi) -> Iterator[CrowdedApi]:
    """Serve `api` on a free port of the loopback interface, from a thread of its own."""
    begun, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", api.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        begun.set()
        await asyncio.to_thread(ended.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert begun.wait(30)
    try:
        yield api
    finally:
        ended.set()
        thread.join(30)


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/{_VERSIONS[name]}", "version": _VERSIONS[name]}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group: str) -> list[dict[str, Any]]:
    return [
        {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": True, "verbs": _VERBS}
        for kind, plural in _KINDS[group].items()
    ]


async def _silence(request: web.Request) -> web.StreamResponse:
    """A watch that brings bookmarks alone, as nothing changes."""
    response = web.StreamResponse()
    await response.prepare(request)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "1000000"}}}
    while True:
        await response.write(json.dumps(bookmark).encode() + b"\n")
        await asyncio.sleep(5)
