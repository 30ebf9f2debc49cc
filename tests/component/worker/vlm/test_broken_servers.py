"""Servers whose HTTP is broken: each ends as one of the client's own errors, within the time of a request."""

import asyncio

import pytest
from tests.support.asking import ask, asker
from tests.support.attacks import measured, row
from tests.support.raw_server import completion, healthy_but, raw_server

from annotationrun_worker.errors import ConfigurationError, RequestFailedError, ServerNotReadyError

LIMIT = 2.0
SLACK = 2.5
OK = b"HTTP/1.1 200 OK\r\n"
RED = completion('{"colour": "red"}')


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def outcome_at(talk, folder):
    async def run():
        with raw_server(talk) as server:
            async with asker(server.base_url, folder, request_timeout_seconds=LIMIT) as one:
                with measured() as cost:
                    (outcome,) = await asyncio.gather(ask(one), return_exceptions=True)
                return outcome, cost

    return asyncio.run(run())


FAILS, REFUSES = "fails", "refuses"
"""It may be otherwise another time; it is the run's end."""
BROKEN = {
    "nothing": (b"", FAILS),
    "status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", FAILS),
    "status 600": (b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", FAILS),
    "status 418": (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", REFUSES),
    "status 204": (b"HTTP/1.1 204 No Content\r\n\r\n", FAILS),
    "status 304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", REFUSES),
    "status 300 without an address": (b"HTTP/1.1 300 Many\r\nContent-Length: 0\r\n\r\n", REFUSES),
    "status 199 and no more": (b"HTTP/1.1 199 Wait\r\n\r\n", FAILS),
    "status 101": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", FAILS),
    "status 099": (b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", FAILS),
    "status 20": (b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", FAILS),
    "status of 5000 digits": (b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n", FAILS),
    "an empty body": (OK + b"Content-Length: 0\r\n\r\n", FAILS),
    "no type": (OK + b"Content-Length: 2\r\n\r\n[]", FAILS),
    "an odd type": (OK + b"Content-Type: \xff/\x80\r\nContent-Length: 2\r\n\r\n[]", FAILS),
    "a type without end": (
        OK + b"Content-Type: " + b"a" * 90_000 + b"\r\nContent-Length: 2\r\n\r\n[]",
        FAILS,
    ),
    "half a status line": (b"HTTP/1.1 20", FAILS),
    "half a header": (OK + b"Content-Le", FAILS),
    "headers without end": (OK + b"X-Odd: y\r\n" * 20_000, FAILS),
    "a header of 1 MB": (OK + b"X-Odd: " + b"y" * 1_000_000 + b"\r\n\r\n", FAILS),
    "a length of 5000 digits": (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", FAILS),
    "a negative length": (OK + b"Content-Length: -1\r\n\r\n", FAILS),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]", FAILS),
    "a body that breaks off": (OK + b"Content-Length: 5000\r\n\r\n" + RED, FAILS),
    "chunks that break off": (OK + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + RED, FAILS),
    "a chunk of 2^64 bytes": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 16 + b"\r\n" + RED, FAILS),
    "a chunk size without end": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\n", FAILS),
    "an odd time to retry": (
        b"HTTP/1.1 429 Busy\r\nRetry-After: \xff\r\nRetry-After-Ms: 1e999\r\nContent-Length: 0\r\n\r\n",
        FAILS,
    ),
    "HTTP/2 unasked": (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64", FAILS),
    "TLS unasked": (b"\x16\3\1\0\xa5\1\0\0\xa1\3\3", FAILS),
    "HTTP/0.9": (RED, FAILS),
}


@pytest.mark.parametrize(("content", "ends"), [pytest.param(*case, id=name) for name, case in BROKEN.items()])
@pytest.mark.parametrize("path", ["/completions", "/models"])
def test_broken_http_ends_as_an_error_of_ours_in_time(tmp_path, printed, request, path, content, ends):
    outcome, cost = outcome_at(healthy_but(path, lambda exchange: exchange.send(content)), tmp_path)
    row(printed, f"broken HTTP: {request.node.callspec.id}", type(outcome).__name__, cost)
    failed = RequestFailedError if path == "/completions" else ServerNotReadyError
    assert type(outcome) is (failed if ends == FAILS else ConfigurationError)
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 1000
    assert cost.seconds < LIMIT + SLACK


def test_a_kept_connection_that_is_closed_is_opened_anew(tmp_path, monkeypatch):
    """The server closes it as the second question goes out: that one is sent again."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 1)
    asked = []

    def close_on_second(exchange):
        asked.append(exchange.path)
        if len(asked) == 2:
            return False
        exchange.answer(RED)
        return True

    async def run():
        with raw_server(healthy_but("/completions", close_on_second)) as server:
            async with asker(server.base_url, tmp_path) as one:
                colours = [(await ask(one, f"{number}?"))[0] for number in range(3)]
                return colours, one.client.usage["colour"].retries

    assert asyncio.run(run()) == (["red"] * 3, 1)
    assert len(asked) == 4
