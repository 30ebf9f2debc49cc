"""Servers that are not quite OpenAI, and answers that are not quite text: each failure is named."""

import asyncio
from dataclasses import replace

import pytest
from tests.support.asking import ask, ask_once, asker
from tests.support.openai_server import Reply, scripted_server

from annotationrun_worker.errors import (
    AnswerError,
    ConfigurationError,
    RequestFailedError,
    ServerNotReadyError,
)
from annotationrun_worker.staging import digests
from annotationrun_worker.staging.digests import canonical_json, digest_json
from annotationrun_worker.vlm.json_extraction import MAX_CHARACTERS

RED = Reply('{"colour": "red"}')
PAGE = Reply(body=b"<html><title>Welcome to nginx!</title></html>", headers={"Content-Type": "text/html"})


def completion(content: bytes) -> bytes:
    """A completion whose content is these bytes of JSON, quotes left out."""
    return b'{"choices": [{"message": {"content": "' + content + b'"}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        pytest.param(r'{"colour": "a \ud800 b"}', "surrogates not allowed", id="an escaped lone surrogate"),
        pytest.param(r'{"colour": "red", "\udfff": 1}', "surrogates not allowed", id="one in a key"),
        pytest.param('{"colour": ' + "[" * 100_000, "recursion", id="nested too deep"),
        pytest.param('{"colour": ' + "9" * 5000 + "}", "4300 digits", id="an integer of 5000 digits"),
        pytest.param('{"colour": NaN}', "NaN is no number", id="NaN"),
        pytest.param('{"colour": -Infinity}', "-Infinity is no number", id="infinity"),
        pytest.param('{"colour": 1e999}', "Out of range", id="a number beyond all floats"),
        pytest.param('{"colour": " \\n "}', "colour", id="a text of space alone"),
    ],
)
def test_json_that_can_not_be_stored_is_corrected_once_then_an_error(tmp_path, said, fault):
    bodies = []

    def script(number, body):
        bodies.append(body)
        return Reply(said)

    with pytest.raises(AnswerError, match=fault):
        ask_once(script, tmp_path)
    assert [len(body["messages"]) for body in bodies] == [1, 3]
    assert not list(tmp_path.rglob("*.json"))


def test_of_an_answer_that_is_too_long_no_more_is_sent_back_than_was_looked_at(tmp_path):
    (colour, _), bodies, _ = ask_once(lambda n, b: RED if n else Reply("x" * 2 * MAX_CHARACTERS), tmp_path)
    assert colour == "red"
    _, said, correction = bodies[1]["messages"]
    assert said == {"role": "assistant", "content": "x" * MAX_CHARACTERS}
    assert f"more than {MAX_CHARACTERS}" in correction["content"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(rb"{\"colour\": \"a \ud800\"}", id="escaped in the response"),
        pytest.param(b'{\\"colour\\": \\"a \xed\xa0\x80\\"}', id="encoded as it may not be"),
    ],
)
def test_an_answer_that_is_no_valid_unicode_is_never_sent_back_nor_staged(tmp_path, content):
    sent = []

    def script(number, body):
        sent.append(body)
        return Reply(body=completion(content))

    with pytest.raises(AnswerError, match=r"no valid Unicode.*a \\ud800") as raised:
        ask_once(script, tmp_path)
    str(raised.value).encode()
    assert len(sent) == 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("reply", "came"),
    [
        pytest.param(PAGE, "HTTP 200, text/html, 45 bytes", id="a web page"),
        pytest.param(
            Reply(body=b"ready"), "not JSON.*application/json, 5 bytes", id="no JSON, though it says so"
        ),
        pytest.param(Reply(body=b'{"data": null}'), "data: Input should be a valid list", id="no list"),
        pytest.param(
            Reply(body=b'{"data": [{"name": "m"}]}'),
            r"data\.0\.id: Field required",
            id="models without an id",
        ),
        pytest.param(Reply(body=b'{"error": {"message": "loading"}}'), "loading", id="an error as success"),
        pytest.param(Reply(body=b"[]"), "the body: Input should be.* 2 bytes", id="a list"),
        pytest.param(Reply(body=b'{"data": [{"id"', missing_bytes=50), "no model server", id="cut off"),
        pytest.param(Reply(body=b"\xff" * 9000), "sent no ModelList", id="bytes that are no text"),
    ],
)
def test_a_server_with_an_odd_list_of_models_is_not_ready(tmp_path, reply, came):
    async def run():
        with scripted_server(lambda n, b: RED, models=reply) as server:
            async with asker(server.base_url, tmp_path) as one:
                with pytest.raises(ServerNotReadyError, match=came) as raised:
                    await ask(one)
                return server, str(raised.value)

    server, text = asyncio.run(run())
    assert server.base_url in text
    assert len(text) < 2000
    assert server.bodies == []


@pytest.mark.parametrize(
    ("reply", "came"),
    [
        pytest.param(PAGE, "HTTP 200, text/html, 45 bytes", id="a web page"),
        pytest.param(
            Reply(body=b"OK"), "not JSON.*application/json, 2 bytes", id="no JSON, though it says so"
        ),
        pytest.param(Reply(body=b'{"choices": []}'), "choices", id="no choice"),
        pytest.param(Reply(body=b'{"choices": [{"text": "red"}]}'), "message", id="a choice without message"),
        pytest.param(
            Reply(body=b'{"error": {"message": "queue full"}}'), "queue full", id="an error as success"
        ),
        pytest.param(Reply(body=completion(b"red")[:40]), "not JSON", id="JSON that stops"),
        pytest.param(Reply(body=b"[" * 100_000), "recursion", id="JSON nested too deep"),
        pytest.param(Reply(body=b"", headers={"Content-Type": "text/plain"}), "not JSON", id="nothing"),
    ],
)
def test_a_response_that_is_no_completion_is_a_failed_request(tmp_path, reply, came):
    with pytest.raises(RequestFailedError, match=came) as raised:
        ask_once(lambda n, b: reply, tmp_path)
    assert "http://127.0.0.1:" in str(raised.value)
    assert len(str(raised.value)) < 2000


def test_a_response_that_breaks_off_is_asked_for_again(tmp_path):
    def script(number, body):
        return Reply(body=completion(b"red")[:40], missing_bytes=40) if number == 0 else RED

    (colour, _), bodies, usage = ask_once(script, tmp_path)
    assert (colour, len(bodies), usage["colour"].retries) == ("red", 2, 1)
    assert list(tmp_path.rglob("*.json")), "what can be used is staged"


def ask_in_turn(script, folder, texts, **settings):
    """The outcome of each question, an error included, and what the server got."""

    async def run():
        outcomes = []
        with scripted_server(script) as server:
            async with asker(server.base_url, folder, **settings) as one:
                for text in texts:
                    outcomes += await asyncio.gather(ask(one, text), return_exceptions=True)
            return outcomes, server.bodies

    return asyncio.run(run())


def test_a_request_refused_after_others_were_answered_fails_alone(tmp_path):
    def script(number, body):
        return Reply(status=400, error="content \ud800 policy") if number == 1 else RED

    (first, refused, third), _ = ask_in_turn(script, tmp_path, ["1?", "2?", "3?"])
    assert (first[0], third[0]) == ("red", "red")
    assert type(refused) is AnswerError
    assert "content" in str(refused)
    str(refused).encode()


@pytest.mark.parametrize("status", [401, 403, 404, 405, 422])
def test_other_refusals_are_the_runs_even_after_answers(tmp_path, status):
    def script(number, body):
        return Reply(status=status, error="no") if number == 1 else RED

    (_, refused), _ = ask_in_turn(script, tmp_path, ["1?", "2?"])
    assert type(refused) is ConfigurationError
    assert f"HTTP {status}" in str(refused)


def test_a_server_that_takes_no_longer_answer_is_told_with_where_it_was_cut(tmp_path):
    def script(number, body):
        if body["max_tokens"] > 64:
            return Reply(status=400, error="maximum context length is 80 tokens")
        return Reply("{", finish_reason="length")

    with pytest.raises(AnswerError, match=r"cut at 64 tokens; .*maximum context length is 80"):
        ask_once(script, tmp_path)


def test_more_tokens_leave_room_for_the_prompt_the_server_counted(tmp_path):
    script_bodies = []

    def script(number, body):
        script_bodies.append(body["max_tokens"])
        return Reply("{", finish_reason="length")

    with pytest.raises(AnswerError, match=r"cut at 140 tokens, which fill the context \(150\)"):
        ask_once(script, tmp_path, context_tokens=150)
    assert script_bodies == [64, 128, 140]


def test_equal_questions_at_once_are_asked_once(tmp_path):
    async def run():
        with scripted_server(lambda n, b: RED) as server:
            async with asker(server.base_url, tmp_path, requests_in_flight=10) as one:
                copies = [replace(one, affinity=str(number)) for number in range(10)]
                answers = await asyncio.gather(*map(ask, copies), *(ask(one, "another?") for _ in range(3)))
            return answers, server.bodies

    answers, bodies = asyncio.run(run())
    assert len(bodies) == 2
    assert {colour for colour, _ in answers} == {"red"}
    assert len({request for _, request in answers}) == 2


def test_equal_questions_share_the_failure_and_are_asked_again_later(tmp_path):
    def script(number, body):
        return Reply("no") if number < 2 else RED

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path) as one:
                failed = await asyncio.gather(*(ask(one) for _ in range(3)), return_exceptions=True)
                return failed, await ask(one), len(server.bodies)

    failed, (colour, _), asked = asyncio.run(run())
    assert [type(outcome) for outcome in failed] == [AnswerError] * 3
    assert (colour, asked) == ("red", 3)


def test_who_stops_waiting_takes_no_other_along_and_the_last_ends_the_request(tmp_path):
    async def run():
        server_got, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def script(number, body):
            loop.call_soon_threadsafe(server_got.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(timeout=10)
            return RED

        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path) as one:
                first, second = asyncio.create_task(ask(one)), asyncio.create_task(ask(one))
                await server_got.wait()
                first.cancel()
                await asyncio.wait([first])
                go_on.set()
                colour, _ = await second

                server_got.clear()
                go_on.clear()
                alone = asyncio.create_task(ask(one, "another?"))
                await server_got.wait()
                alone.cancel()
                await asyncio.wait([alone])
                go_on.set()
                again, _ = await ask(one, "another?")
                return first.cancelled(), colour, alone.cancelled(), again, len(server.bodies)

    assert asyncio.run(run()) == (True, "red", True, "red", 3)


def test_a_request_that_is_sent_as_it_was_asked_is_digested_once(tmp_path, monkeypatch):
    digested = []

    def spy(value):
        digested.append(value)
        return canonical_json(value)

    monkeypatch.setattr(digests, "canonical_json", spy)
    (_, request), (body,), _ = ask_once(lambda n, b: RED, tmp_path)
    assert [value for value in digested if "messages" in value] == [body]
    assert request == digest_json(body)
