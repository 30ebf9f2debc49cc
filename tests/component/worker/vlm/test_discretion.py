"""An endpoint may be the address of a page that is nobody's business: what it says is repeated nowhere."""

import asyncio
import json

import pytest
from tests.support.asking import ask, asker
from tests.support.attacks import measured, row
from tests.support.bad_input import Bench, count_blocks
from tests.support.openai_server import Reply
from tests.support.raw_server import healthy_but, raw_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import ConfigurationError, RequestFailedError, ServerNotReadyError

CANARY = "hunter2"
OTHER_PAGES = {
    "a web page": f"<html>{CANARY}</html>",
    "text": f"token={CANARY}",
    "a text of JSON": json.dumps(CANARY),
    "a list of texts": json.dumps([CANARY]),
    "an object of its own": json.dumps({"data": CANARY, "choices": CANARY, "message": CANARY, CANARY: 1}),
    "JSON that stops": '{"data": [{"id": "' + CANARY,
    "an error that is no text": json.dumps({"error": {"message": {"secret": CANARY}}, "detail": [[CANARY]]}),
}
PAGES = [pytest.param(page, id=name) for name, page in OTHER_PAGES.items()]


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def outcome_at(talk, folder, **settings):
    async def run():
        with raw_server(talk) as server:
            async with asker(server.base_url, folder, **settings) as one:
                with measured() as cost:
                    (outcome,) = await asyncio.gather(ask(one), return_exceptions=True)
                return outcome, cost

    return asyncio.run(run())


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        pytest.param("/completions", "200 OK", RequestFailedError, id="as an answer"),
        pytest.param("/completions", "400 Bad Request", ConfigurationError, id="as a refusal"),
        pytest.param("/completions", "503 Busy", RequestFailedError, id="as a failure"),
        pytest.param("/models", "200 OK", ServerNotReadyError, id="as the models"),
        pytest.param("/models", "401 Unauthorized", ConfigurationError, id="as a refusal of the models"),
        pytest.param("/models", "500 Oops", ServerNotReadyError, id="as a failure of the models"),
    ],
)
def test_a_page_that_is_no_answer_is_told_by_status_type_and_size(
    tmp_path, printed, request, page, path, status, expected
):
    body = page.encode()
    talk = healthy_but(path, lambda exchange: exchange.answer(body, status=status))
    outcome, cost = outcome_at(talk, tmp_path)
    row(printed, f"internal page {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert CANARY not in str(outcome)
    assert f"HTTP {status[:3]}" in str(outcome)
    assert f"application/json, {len(body)} bytes" in str(outcome)


@pytest.mark.parametrize(
    "banner",
    [
        pytest.param(f"SSH-2.0-{CANARY}\r\n\r\n", id="another protocol"),
        pytest.param(f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n", id="a line that is no header"),
        pytest.param(f"HTTP/1.1 2{CANARY} OK\r\n\r\n", id="a status that is no number"),
        pytest.param(
            f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CANARY}\r\n", id="a chunk without a size"
        ),
        pytest.param(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {CANARY}\r\n\r\n", id="an unknown encoding"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Length: {CANARY}\r\n\r\n", id="a length that is no number"),
    ],
)
@pytest.mark.parametrize(
    ("path", "expected"), [("/completions", RequestFailedError), ("/models", ServerNotReadyError)]
)
def test_a_server_of_another_protocol_is_not_quoted(tmp_path, printed, request, banner, path, expected):
    talk = healthy_but(path, lambda exchange: exchange.send(banner.encode()))
    outcome, cost = outcome_at(talk, tmp_path)
    row(printed, f"no HTTP: {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert CANARY not in str(outcome)
    assert "what came is no HTTP" in str(outcome)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"error": {"message": "no such model"}}, id="OpenAI's"),
        pytest.param({"error": "no such model"}, id="Ollama's"),
        pytest.param({"object": "error", "message": "no such model"}, id="older ones of vLLM"),
        pytest.param({"detail": "no such model"}, id="FastAPI's"),
        pytest.param({"detail": [{"loc": ["body"], "msg": "no such model"}]}, id="FastAPI's list"),
    ],
)
def test_the_message_of_an_error_is_repeated(tmp_path, body):
    content = json.dumps(body).encode()
    talk = healthy_but("/completions", lambda exchange: exchange.answer(content, status="404 Not Found"))
    assert "(HTTP 404): no such model; " in str(outcome_at(talk, tmp_path)[0])


def test_a_message_forges_no_line_and_moves_no_cursor(tmp_path):
    content = json.dumps({"error": {"message": "a\nb \x1b[2J \u202e" + "c" * 1000}}).encode()
    talk = healthy_but("/completions", lambda exchange: exchange.answer(content, status="404 Not Found"))
    outcome, _ = outcome_at(talk, tmp_path)
    assert str(outcome).isprintable()
    assert r"a\nb \x1b[2J \u202eccc" in str(outcome)
    assert len(str(outcome)) < 600


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "500 Oops"])
def test_a_key_that_is_repeated_at_the_cut_is_not_shown_in_part(tmp_path, status):
    words = "x" * 250 + CANARY + "y" * 1000
    content = json.dumps({"error": {"message": words}}).encode()
    talk = healthy_but("/completions", lambda exchange: exchange.answer(content, status=status))

    async def run():
        with raw_server(talk) as server:
            async with asker(server.base_url, tmp_path, api_key=CANARY) as one:
                return (await asyncio.gather(ask(one), return_exceptions=True))[0]

    outcome = asyncio.run(run())
    assert "x" * 250 in str(outcome)
    assert CANARY[:3] not in str(outcome)


@pytest.mark.parametrize(
    ("script", "models", "exit_code"),
    [
        pytest.param(
            count_blocks, Reply(body=b"<p>" + CANARY.encode()), ExitCode.SERVER_NOT_READY, id="models"
        ),
        pytest.param(
            lambda number, body: Reply(body=b"<p>" + CANARY.encode()),
            ("demo-vlm",),
            ExitCode.INCOMPLETE,
            id="answers",
        ),
    ],
)
def test_a_run_keeps_nothing_of_a_page_that_is_no_answer(
    tmp_path, printed, request, script, models, exit_code
):
    bench = Bench(tmp_path)
    with measured() as cost:
        done = bench.run(script, models)
    row(printed, f"run at an internal page, {request.node.callspec.id}", f"exit {done.exit_code}", cost)
    assert done.exit_code == exit_code
    assert CANARY not in done.stdout + done.stderr
    assert not [path for path, content in bench.staged().items() if CANARY.encode() in content]
