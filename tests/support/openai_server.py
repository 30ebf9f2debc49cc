"""A real HTTP server that answers chat completions as scripted, faults by call number included."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from annotationrun_worker.vlm.request import is_probe


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    content: str | None = None
    status: int = 200
    finish_reason: str = "stop"
    prompt_tokens: int = 10
    error: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Sent as it is, in place of a completion or a list of models."""
    missing_bytes: int = 0
    """Of the announced length; the connection is closed early."""


Script = Callable[[int, dict[str, Any]], Reply]
"""(number of the request from 0, its body) -> reply."""


def answer_probe(number: int, body: dict[str, Any]) -> Reply:
    """What a server answers that honours schemas, and knows nothing of ``uuid``."""
    if "response_format" not in body:
        return Reply("Hello!")
    properties = body["response_format"]["json_schema"]["schema"]["properties"]
    return Reply(json.dumps({name: allowed["enum"][0] for name, allowed in properties.items()}))


class ScriptedServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, script: Script, models: tuple[str, ...] | Reply, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script = script
        self.models = models
        self.health: Callable[[int], Reply] = lambda number: Reply(
            body=b"", headers={"Content-Type": "text/plain"}
        )
        """Answers ``GET /health``, the ``number``-th from 0."""
        self.looks_at_health = 0
        self.keys: set[str | None] = set()
        """What requests of all kinds had as header ``Authorization``."""
        self.bodies: list[dict[str, Any]] = []
        self.probe: Script = answer_probe
        """Answers what only tries the server, the ``number``-th from 0."""
        self.probes: list[dict[str, Any]] = []
        """The bodies of these, which are not among the others."""
        self.pages: dict[str, Callable[[], Reply]] = {}
        """Beside the API, such as ``/metrics``."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits up to 40 ms for the client's acknowledgement
    wbufsize = -1

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        if self.path == "/health":
            number, self.server.looks_at_health = self.server.looks_at_health, self.server.looks_at_health + 1
            self._send_as_it_is(self.server.health(number))
            return
        if self.path in self.server.pages:
            self._send_as_it_is(self.server.pages[self.path]())
            return
        if not self.path.endswith("/models"):
            self._send(404, {"detail": "Not Found"})
            return
        models = self.server.models
        if isinstance(models, Reply):
            self._send_as_it_is(models)
            return
        self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

    def do_POST(self) -> None:
        server = self.server
        server.keys.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script, bodies = (server.probe, server.probes) if is_probe(body) else (server.script, server.bodies)
        with server.lock:
            number = len(bodies)
            bodies.append(body)
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            reply = script(number, body)
        finally:
            with server.lock:
                server.in_flight -= 1
        if reply.body is not None:
            self._send_as_it_is(reply)
            return
        if reply.status != 200:
            self._send(reply.status, {"error": {"message": reply.error, "type": "error"}}, reply.headers)
            return
        message = {"role": "assistant", "content": reply.content}
        prompt_tokens = reply.prompt_tokens
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": 5,
            "total_tokens": prompt_tokens + 5,
        }
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        answer = {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
        }
        self._send(200, {**answer, "usage": usage})

    def _send(self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._send_as_it_is(Reply(status=status, headers=headers or {}, body=json.dumps(value).encode()))

    def _send_as_it_is(self, reply: Reply) -> None:
        content = reply.body or b""
        self.send_response(reply.status)
        for name, text in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content) + reply.missing_bytes))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
        self.close_connection = reply.missing_bytes > 0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@contextmanager
def scripted_server(script: Script, models: tuple[str, ...] | Reply = ("m",)) -> Iterator[ScriptedServer]:
    """A server running ``script`` on a free port of the loopback interface.

    It serves `models`, or sends that reply where it is asked for them.
    """
    server = ScriptedServer(script, models)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
