"""Servers that are never late for a read, and never done: whole requests and whole looks have a deadline."""

import asyncio
import time

import pytest
from tests.support.asking import ask, asker
from tests.support.attacks import measured, row
from tests.support.raw_server import healthy_but, raw_server

from annotationrun_worker.errors import RequestFailedError, ServerNotReadyError
from annotationrun_worker.vlm import readiness as server_pages
from annotationrun_worker.vlm.readiness import read_server_counts, read_version

LIMIT = 1.0
SLACK = 2.5
"""Seconds on top of a limit: a look's pause, and a busy machine."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def spaces(exchange):
    exchange.drip(HEAD + b"Content-Length: 100000\r\n\r\n")


def chunks(exchange):
    exchange.drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n")


def headers(exchange):
    exchange.drip(HEAD + b"X-Slow: ", b"x")


def interim_answers(exchange):
    exchange.drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")


DRIPS = [
    pytest.param(spaces, id="a body of spaces"),
    pytest.param(chunks, id="chunks of spaces"),
    pytest.param(headers, id="a header"),
    pytest.param(interim_answers, id="interim answers"),
]


def outcome_at(talk, folder, **settings):
    """What asking a question ends with, and what that cost."""

    async def run():
        with raw_server(talk) as server:
            async with asker(server.base_url, folder, **settings) as one:
                with measured() as cost:
                    (outcome,) = await asyncio.gather(ask(one), return_exceptions=True)
                return outcome, cost

    return asyncio.run(run())


@pytest.mark.parametrize("drip", DRIPS)
def test_an_answer_that_drips_ends_with_the_time_of_a_request(tmp_path, printed, request, drip):
    outcome, cost = outcome_at(healthy_but("/completions", drip), tmp_path, request_timeout_seconds=LIMIT)
    row(printed, f"answer that drips, {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is RequestFailedError
    assert f"may take {LIMIT:g} s (spec.model.requestTimeoutSeconds)" in str(outcome)
    assert cost.seconds < LIMIT + SLACK


@pytest.mark.parametrize(
    ("path", "drip"),
    [
        pytest.param("/models", spaces, id="models, a body of spaces"),
        pytest.param("/models", chunks, id="models, chunks of spaces"),
        pytest.param("/models", headers, id="models, a header"),
        pytest.param("/models", interim_answers, id="models, interim answers"),
        pytest.param("/health", headers, id="health, a header"),
        pytest.param("/health", interim_answers, id="health, interim answers"),
    ],
)
def test_a_start_that_drips_ends_with_the_time_to_start(tmp_path, printed, request, path, drip):
    outcome, cost = outcome_at(healthy_but(path, drip), tmp_path, start_timeout_seconds=LIMIT)
    row(printed, f"start that drips, {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is ServerNotReadyError
    assert f"was not ready within {LIMIT:g} s" in str(outcome)
    assert "no whole answer within" in str(outcome)
    assert cost.seconds < LIMIT + SLACK


@pytest.mark.parametrize("drip", [spaces, chunks])
def test_of_health_the_status_is_waited_for_and_not_the_page(tmp_path, printed, drip):
    outcome, cost = outcome_at(healthy_but("/health", drip), tmp_path, start_timeout_seconds=60)
    row(printed, f"page of health that drips, {drip.__name__}", outcome[0], cost)
    assert outcome[0] == "red"
    assert cost.seconds < 5, "less than the time of a look"


def test_a_list_of_models_that_drips_ends_with_the_time_of_a_request(tmp_path, printed):
    outcome, cost = outcome_at(healthy_but("/models", spaces), tmp_path, request_timeout_seconds=LIMIT)
    row(printed, "list of models that drips, server not waited for", type(outcome).__name__, cost)
    assert type(outcome) is ServerNotReadyError
    assert cost.seconds < LIMIT + SLACK


@pytest.mark.parametrize("read", [read_version, read_server_counts])
def test_a_page_beside_the_api_that_drips_is_done_without(tmp_path, printed, monkeypatch, read):
    monkeypatch.setattr(server_pages, "_PAGE_SECONDS", LIMIT)

    async def run():
        with raw_server(spaces) as server:
            async with asker(server.base_url, tmp_path) as one:
                with measured() as cost:
                    return await read(one.client._servers[0]), cost

    found, cost = asyncio.run(run())
    row(printed, f"page that drips, {read.__name__}", str(found), cost)
    assert found is None
    assert cost.seconds < LIMIT + SLACK


def test_a_server_that_is_asked_when_its_time_is_over_gets_one_look_more(tmp_path):
    """Others were waited for before it."""

    def late(exchange):
        time.sleep(0.3)
        return healthy_but("nothing", spaces)(exchange)

    async def run():
        with raw_server(late) as server:
            async with asker(server.base_url, tmp_path, start_timeout_seconds=0.1) as one:
                return await ask(one)

    colour, _ = asyncio.run(run())
    assert colour == "red"
