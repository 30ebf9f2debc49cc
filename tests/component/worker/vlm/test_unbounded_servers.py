"""Servers whose answers have no end, unpack to gigabytes or are elsewhere: read in part, and told so."""

import asyncio
import gzip
import time
import zlib

import pytest
from tests.support.asking import ask, asker
from tests.support.attacks import measured, row
from tests.support.raw_server import completion, healthy_but, raw_server

from annotationrun_worker.errors import ConfigurationError, RequestFailedError, ServerNotReadyError
from annotationrun_worker.vlm.readiness import read_server_counts, read_version

MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
MORE_MEBIBYTES = 64
"""That a process may need for an answer that is too long: what it reads of it, and copies."""
PIECE = b" " * MIB


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def outcome_at(talk, folder, **settings):
    """What asking a question ends with, what that cost, and the paths that were asked for."""

    async def run():
        with raw_server(talk) as server:
            async with asker(server.base_url, folder, **settings) as one:
                with measured() as cost:
                    (outcome,) = await asyncio.gather(ask(one), return_exceptions=True)
                return outcome, cost, server.paths

    return asyncio.run(run())


def announced(exchange):
    exchange.pour(HEAD + b"Content-Length: 2147483648\r\n\r\n", PIECE, 2048)


def chunked(exchange):
    exchange.pour(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + PIECE + b"\r\n", 2048)


def until_closed(exchange):
    exchange.pour(HEAD + b"\r\n", PIECE, 2048)


ENDLESS = [
    pytest.param(announced, id="2 GiB, announced"),
    pytest.param(chunked, id="2 GiB in chunks"),
    pytest.param(until_closed, id="2 GiB until the connection ends"),
]
ENDS = [
    pytest.param("/completions", RequestFailedError, "expected a chat completion of at most", id="answer"),
    pytest.param("/models", ServerNotReadyError, "expected a list of models of at most", id="models"),
]


@pytest.mark.parametrize("endless", ENDLESS)
@pytest.mark.parametrize(("path", "expected", "says"), ENDS)
def test_of_an_answer_without_end_a_bounded_part_is_read(
    tmp_path, printed, request, endless, path, expected, says
):
    outcome, cost, paths = outcome_at(healthy_but(path, endless), tmp_path)
    row(printed, f"unbounded: {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert says in str(outcome)
    assert "application/json, more than 4194304 bytes" in str(outcome)
    assert paths.count(f"/v1{'/chat' if 'completions' in path else ''}{path}") == 1, "it would come again"
    assert cost.more_mebibytes < MORE_MEBIBYTES
    assert cost.seconds < 5


def packed(is_gzip):
    """A GiB of spaces, in 1 MiB."""
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(PIECE) + packer.flush(zlib.Z_FULL_FLUSH)  # on its own: it may be repeated
    return (b"\x1f\x8b\x08\0\0\0\0\0\0\xff" if is_gzip else b"") + 1024 * block


@pytest.mark.parametrize(("path", "expected", "says"), ENDS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "GZip", "identity, gzip"])
def test_a_compressed_answer_is_refused_unread(tmp_path, printed, request, path, expected, says, encoding):
    bomb = packed(is_gzip=encoding != "deflate")
    assert len(bomb) < 2 * MIB
    asked = []

    def send_bomb(exchange):
        asked.append(exchange.head.lower())
        exchange.answer(bomb, f"Content-Encoding: {encoding}")

    outcome, cost, _ = outcome_at(healthy_but(path, send_bomb), tmp_path)
    row(printed, f"1 GiB compressed: {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert says in str(outcome)
    assert "application/json, compressed" in str(outcome)
    assert [b"accept-encoding: identity\r\n" in head for head in asked] == [True]
    assert cost.more_mebibytes < MORE_MEBIBYTES
    assert cost.seconds < 5


@pytest.mark.parametrize("charset", ["zlib", "bz2", "hex", "rot13", "utf-7", "no-such"])
def test_a_charset_unpacks_nothing(tmp_path, printed, charset):
    """Python's codecs by these names are no character sets; that of zlib unpacks."""
    words = b'{"error": {"message": "no such key"}}'
    content = zlib.compress(words) if charset == "zlib" else words

    def refuse(exchange):
        start = f"HTTP/1.1 401 No\r\nContent-Type: application/json; charset={charset}\r\n"
        exchange.send(f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content)

    outcome, cost, _ = outcome_at(healthy_but("/completions", refuse), tmp_path)
    row(printed, f"charset={charset} of an error", type(outcome).__name__, cost)
    assert type(outcome) is ConfigurationError
    assert ("no such key" in str(outcome)) == (charset != "zlib")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param("401 Unauthorized", ConfigurationError, id="refusal"),
        pytest.param("500 Internal Server Error", RequestFailedError, id="failure"),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True], ids=["too long", "compressed"])
def test_the_status_of_an_error_counts_though_its_text_is_not_read(
    tmp_path, printed, request, status, expected, is_packed
):
    def refuse(exchange):
        if is_packed:
            exchange.answer(gzip.compress(b"secret" * 9999), "Content-Encoding: gzip", status=status)
        else:
            exchange.pour(f"HTTP/1.1 {status}\r\n\r\n".encode(), b"secret" * MIB, 64)

    outcome, cost, _ = outcome_at(healthy_but("/completions", refuse), tmp_path)
    row(printed, f"text of an error: {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert f"HTTP {status[:3]}" in str(outcome)
    assert "secret" not in str(outcome)
    assert cost.more_mebibytes < MORE_MEBIBYTES


@pytest.mark.parametrize(("read", "path"), [(read_version, "/version"), (read_server_counts, "/metrics")])
@pytest.mark.parametrize("endless", ENDLESS)
def test_a_page_beside_the_api_without_end_is_done_without(tmp_path, printed, request, read, path, endless):
    async def run():
        with raw_server(healthy_but(path, endless)) as server:
            async with asker(server.base_url, tmp_path) as one:
                with measured() as cost:
                    return await read(one.client._servers[0]), cost

    found, cost = asyncio.run(run())
    row(printed, f"unbounded: {request.node.callspec.id}", str(found), cost)
    assert found is None
    assert cost.more_mebibytes < MORE_MEBIBYTES
    assert cost.seconds < 4, "less than the time that a page has"


def test_a_page_of_health_is_not_read(tmp_path, printed):
    outcome, cost, _ = outcome_at(healthy_but("/health", until_closed), tmp_path, start_timeout_seconds=9)
    row(printed, "unbounded: health", outcome[0], cost)
    assert outcome[0] == "red"
    assert cost.more_mebibytes < MORE_MEBIBYTES


def test_health_is_its_status_though_its_page_is_compressed(tmp_path):
    talk = healthy_but("/health", lambda exchange: exchange.answer(b"?", "Content-Encoding: gzip"))
    assert outcome_at(talk, tmp_path, start_timeout_seconds=9)[0][0] == "red"


def test_cookies_are_neither_kept_nor_sent(tmp_path):
    heads = []

    def set_cookie(exchange):
        heads.append(exchange.head.lower())
        cookie = f"Set-Cookie: k{len(heads)}={'x' * 1000}; Path=/"
        exchange.answer(completion('{"colour": "red"}'), cookie)

    async def run():
        with raw_server(healthy_but("/completions", set_cookie)) as server:
            async with asker(server.base_url, tmp_path) as one:
                for number in range(3):
                    await ask(one, f"{number}?")

    asyncio.run(run())
    assert [b"\r\ncookie:" in head for head in heads] == [False] * 3


def test_an_answer_of_the_size_that_may_be_is_read(tmp_path):
    said = completion('{"colour": "red"}')
    padded = said + b" " * (4 * MIB - len(said))
    talk = healthy_but("/completions", lambda exchange: exchange.answer(padded))
    assert outcome_at(talk, tmp_path)[0][0] == "red"


def test_the_server_is_not_heard_out(tmp_path):
    """The connection is closed; nobody reads to its end for the sake of the next request."""
    sent = []

    def count(exchange):
        exchange.send(HEAD + b"\r\n")
        for _ in range(2048):
            exchange.send(PIECE)
            sent.append(MIB)
            time.sleep(0.001)

    outcome_at(healthy_but("/completions", count), tmp_path)
    assert sum(sent) < 64 * MIB


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
@pytest.mark.parametrize(
    ("path", "settings"),
    [
        pytest.param("/completions", {}, id="answer"),
        pytest.param("/models", {}, id="models"),
        pytest.param("/models", {"start_timeout_seconds": 9}, id="models of a server that is waited for"),
    ],
)
def test_a_redirect_is_not_followed(tmp_path, printed, request, status, path, settings):
    seen = []

    def internal(exchange):
        seen.append(exchange.path)
        exchange.answer(b'{"data": [{"id": "m"}]}')

    with raw_server(internal) as other:
        target = f"Location: {other.base_url}{path}"
        talk = healthy_but(path, lambda exchange: exchange.answer(b"", target, status=status))
        outcome, cost, _ = outcome_at(talk, tmp_path, **settings)
    row(printed, f"redirect: {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is ConfigurationError
    assert f"HTTP {status[:3]}" in str(outcome)
    assert "redirects are not followed" in str(outcome)
    assert seen == []


@pytest.mark.parametrize(
    "location", ["http://[::1", "//", "http://a:99999/", "\x80\xff", "file:///etc/passwd"]
)
def test_an_odd_address_of_a_redirect_is_no_matter(tmp_path, printed, location):
    def redirect(exchange):
        exchange.answer(b"", "Location: " + location, status="302 Found")

    outcome, cost, _ = outcome_at(healthy_but("/completions", redirect), tmp_path)
    row(printed, f"redirect to {location!r}", type(outcome).__name__, cost)
    assert type(outcome) is ConfigurationError
    assert "HTTP 302" in str(outcome)


def test_redirects_of_pages_beside_the_api_are_not_followed(tmp_path):
    with raw_server(lambda exchange: exchange.answer(b'{"version": "1"}')) as other:
        target = f"Location: {other.base_url}/version"
        talk = healthy_but("/version", lambda exchange: exchange.answer(b"", target, status="302 Found"))

        async def run():
            with raw_server(talk) as server:
                async with asker(server.base_url, tmp_path) as one:
                    return await read_version(one.client._servers[0])

        assert asyncio.run(run()) is None
        assert other.paths == []
