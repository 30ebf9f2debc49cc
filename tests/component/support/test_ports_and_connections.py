"""Ports that are held for a program, and connections to an API server that closes those that are idle."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.support import kube_api
from tests.support.held_ports import held_ports
from tests.support.kube_api import KubeApi

ANSWER = b'{"items": ["found"]}'
IDLE_SECONDS = 0.3


def test_a_held_port_is_given_to_nobody_but_who_may_reuse_it():
    with held_ports(2) as ports:
        assert len(set(ports)) == 2
        for port in ports:
            with socket.socket() as other, pytest.raises(OSError, match="already in use"):
                other.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)) as program:  # it sets SO_REUSEADDR
                socket.create_connection(program.getsockname(), timeout=30).close()


def test_a_port_is_free_when_it_is_held_no_more():
    with held_ports(1) as (port,):
        pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))


@contextmanager
def server(late=None):
    """An HTTP server that closes what is idle for IDLE_SECONDS; the answer of /late waits for an event."""
    connections = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = IDLE_SECONDS

        def do_GET(self):
            connections.add(self.client_address)
            if self.path == "/late":
                late.wait(60)
            self.send_response(200)
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *words):
            """Not into the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http_server.server_port}", connections
        finally:
            http_server.shutdown()
            thread.join()


def test_a_connection_that_was_idle_is_not_used_again(monkeypatch):
    with server() as (url, connections):
        api = KubeApi(url)
        assert api.items("/one") == api.items("/two") == ["found"]
        assert len(connections) == 1
        monkeypatch.setattr(kube_api, "IDLE_SECONDS", 0.0)
        assert api.items("/three") == ["found"]
        assert len(connections) == 2
        api.close()


def test_an_answer_that_does_not_come_in_time_is_not_taken_for_the_next_one(monkeypatch):
    late = threading.Event()
    with server(late) as (url, connections):
        api = KubeApi(url)
        monkeypatch.setattr(kube_api, "CALL_SECONDS", 0.2)
        assert api.items("/first") == ["found"]
        with pytest.raises(TimeoutError):
            api.items("/late")
        monkeypatch.undo()
        assert api.items("/next") == ["found"]
        assert len(connections) == 2
        late.set()
        api.close()
