"""HTTP: requests are numbered, carried out or spoilt, answered and counted."""

import json
import select
import socket
import sys
import threading
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from tests.support.hub_server.counters import LogLine
from tests.support.hub_server.endpoints import Endpoint, carry_out, endpoint_of
from tests.support.hub_server.faults import Call, Fault, Faults
from tests.support.hub_server.replies import HubError, Reply, Request, error_reply, json_reply
from tests.support.hub_server.state import Hub

MAX_LINE_BYTES = 1 << 16
WRITE_BYTES = 1 << 16


_CDN_NAMES = {"127.0.0.1": "localhost"}
"""The real CDN is another host, and clients of version 1 tell it by the name alone."""


class Listener(ThreadingHTTPServer):
    """One port; the Hub and its CDN are two of these over the same state, as they have different origins."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub, faults: Faults, numbers: "count[int]") -> None:
        super().__init__(address, _Handler)
        self.hub = hub
        self.faults = faults
        self.numbers = numbers
        self.cdn_port = self.port
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def drop_connections(self) -> None:
        """As a server that goes away."""
        with self._open_lock:
            for connection in self._open:
                _hang_up(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may leave at any time; anything else is a fault of this server and is printed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        if self.path.startswith("/__"):
            self._administer()
            return
        client = self.client_address[0]
        call_path = self.path.partition("?")[0]
        number = next(self.server.numbers)
        request = self._request(number, b"")
        endpoint = endpoint_of(self.command, request.segments)
        call = Call(number, endpoint.kind, self.command, call_path, client)
        fault = self.server.faults.pick(call)
        is_cut_upload = fault is not None and fault.kind == "cut" and self.command == "PUT"
        body = self._body(fault.after_bytes if is_cut_upload and fault else None)
        request = self._request(number, body)
        if is_cut_upload or (fault is not None and fault.kind == "hang" and not self._hold()):
            self._note(call, request, 0)
            self._close()
            return
        reply = self._reply(request, endpoint, fault)
        if fault is not None and fault.kind == "lost":
            self._note(call, request, 0)
            self._close()
            return
        body = self._spoilt(b"" if self.command == "HEAD" else reply.body, fault)
        line = self._note(call, request, reply.status, len(body), reply.file)
        self._send(reply, body, line)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _request(self, number: int, body: bytes) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = headers.get("host", f"127.0.0.1:{self.server.port}")
        name = urlsplit(f"//{host}").hostname
        return Request(
            number,
            self.command,
            self.path,
            headers,
            self.client_address[0],
            f"http://{host}",
            f"http://{_CDN_NAMES.get(name, name)}:{self.server.cdn_port}",
            body,
        )

    def _body(self, limit: int | None) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunked()
            return body if limit is None else body[:limit]
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length if limit is None else min(limit, length))
        if limit is None and len(body) < length:
            raise ConnectionResetError("the client left within its request")
        return body

    def _chunked(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline(MAX_LINE_BYTES).partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline(MAX_LINE_BYTES)
        while self.rfile.readline(MAX_LINE_BYTES).strip():  # trailers, up to an empty line
            pass
        return b"".join(chunks)

    def _hold(self) -> bool:
        """Wait; whether the request is to go on: not if the client has left, even if it is released now."""
        gate = self.server.faults.gate()
        is_released = False
        while not is_released:
            is_released = gate.wait(0.05)
            readable, _, _ = select.select([self.connection], [], [], 0)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                return False
        return True

    def _reply(self, request: Request, endpoint: Endpoint, fault: Fault | None) -> Reply:
        if fault is None or fault.kind != "status":
            return carry_out(self.server.hub, request, endpoint)
        if fault.is_carried_out:
            carry_out(self.server.hub, request, endpoint)
        return error_reply(HubError(fault.status, "On purpose", headers=fault.headers))

    def _spoilt(self, body: bytes, fault: Fault | None) -> bytes:
        """What of an answer's body goes out."""
        at = fault.after_bytes if fault is not None else 0
        if fault is not None and fault.kind == "cut":
            return body[:at]
        if fault is not None and fault.kind == "corrupt" and at < len(body):
            return body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
        return body

    def _send(self, reply: Reply, body: bytes, line: LogLine | None = None) -> None:
        """Announce the whole reply and send `body`, which may be less of it."""
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.send_header("X-Request-Id", f"request-{line.number if line else 0}")
        sent = 0
        try:
            self.end_headers()
            for start in range(0, len(body), WRITE_BYTES):
                self.wfile.write(body[start : start + WRITE_BYTES])
                sent += len(body[start : start + WRITE_BYTES])
        except ConnectionError:
            if line is not None:
                self.server.hub.counters.amend(line, sent)
            raise
        if len(body) < len(reply.body) and self.command != "HEAD":
            self._close()

    def _close(self) -> None:
        self.close_connection = True
        _hang_up(self.connection)

    def _note(
        self,
        call: Call,
        request: Request,
        status: int,
        bytes_sent: int = 0,
        file: tuple[str, str] | None = None,
    ) -> LogLine:
        line = LogLine(
            call.number,
            call.kind,
            call.method,
            call.path,
            status,
            call.client,
            request.headers.get("user-agent", ""),
            file,
            bytes_sent,
            len(request.body),
        )
        self.server.hub.counters.note(line)
        return line

    def _administer(self) -> None:
        """For tests that have no other way to this process; neither numbered nor counted."""
        body = self._body(None)
        hub, faults = self.server.hub, self.server.faults
        match self.command, self.path:
            case "GET", "/__counters":
                self._answer(json_reply(hub.counters.as_json()))
                return
            case "POST", "/__clear":
                hub.counters.clear()
            case "POST", "/__faults":
                for rule in json.loads(body):
                    faults.add_json(rule)
            case "GET", "/__faults":
                self._answer(json_reply([asdict(call) for call, _ in list(faults.hit)]))
                return
            case "DELETE", "/__faults":
                faults.clear()
            case "POST", "/__finish_copies":
                hub.finish_copies()
            case "GET", "/__health":
                pass
            case _:
                self._answer(error_reply(HubError(404, "Not Found")))
                return
        self._answer(json_reply({}))

    def _answer(self, reply: Reply) -> None:
        self._send(reply, reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass
