"""A server on a bare socket: it reads whole requests, and what it sends back need be no HTTP at all."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'


@dataclass(frozen=True)
class Exchange:
    """One request, and the connection that its answer goes out on."""

    path: str
    head: bytes
    """Of the request, as it came."""
    connection: socket.socket
    stopped: threading.Event
    """Set when the server ends."""

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def answer(self, body: bytes, *headers: str, status: str = "200 OK") -> bool:
        """A whole answer of JSON; true, as the connection may stay open: a client takes it for that.

        One that is closed all the same fails the client's next request, if that comes before it has noticed.
        """
        lines = ["HTTP/1.1 " + status, "Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.send("\r\n".join([*lines, *headers, "", ""]).encode() + body)
        return True

    def drip(self, start: bytes, drop: bytes = b" ", seconds: float = 0.1) -> None:
        """Send `start`, then a drop now and then as long as anybody listens."""
        self.send(start)
        while not self.stopped.wait(seconds):
            self.send(drop)

    def pour(self, start: bytes, piece: bytes, count: int) -> None:
        """Send `start`, then `count` times a piece, without having all of it at once."""
        self.send(start)
        for _ in range(count):
            self.send(piece)


Talk = Callable[[Exchange], bool | None]
"""Answers one request; true: the connection stays open for another."""


class _RawServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, talk: Talk) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.talk = talk
        self.stopped = threading.Event()
        self.paths: list[str] = []

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(socketserver.StreamRequestHandler):
    server: _RawServer

    def handle(self) -> None:
        with suppress(OSError):  # the client went away
            while exchange := self._next():
                self.server.paths.append(exchange.path)
                if not self.server.talk(exchange):
                    return

    def _next(self) -> Exchange | None:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) != b"\r\n":
            if not line:
                return None  # the client went away
            lines.append(line)
        head = b"".join(lines)
        for line in head.splitlines():
            if line.lower().startswith(b"content-length:"):
                self.rfile.read(int(line.partition(b":")[2]))
        path = head.split()[1].decode()
        return Exchange(path, head, self.connection, self.server.stopped)


@contextmanager
def raw_server(talk: Talk) -> Iterator[_RawServer]:
    """A server on a free port of the loopback interface that answers each request by `talk`."""
    server = _RawServer(talk)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def healthy_but(path: str, talk: Talk) -> Talk:
    """A server that is as it should be, but for what it does where the path ends with `path`."""

    def answer(exchange: Exchange) -> bool | None:
        if exchange.path.endswith(path):
            return talk(exchange)
        if exchange.path.endswith("/models"):
            exchange.answer(MODELS)
        elif exchange.path.endswith("/completions"):
            exchange.answer(completion('{"colour": "red"}'))
        elif exchange.path.endswith("/health"):
            exchange.answer(b"")
        else:
            exchange.answer(b'{"detail": "Not Found"}', status="404 Not Found")
        return True

    return answer


def completion(content: str, **usage: object) -> bytes:
    """The body of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage or None}).encode()
