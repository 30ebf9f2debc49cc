"""The client and the asker against a real HTTP server."""

import asyncio
import json
import threading
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
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.client import VlmClient
from annotationrun_worker.vlm.server import ServerSettings, Usage


def test_a_question_is_sent_with_its_schema_and_answered(tmp_path):
    (colour, request), bodies, usage = ask_once(lambda n, b: Reply('{"colour": "red"}'), tmp_path)
    assert colour == "red"
    (body,) = bodies
    assert request == digest_json(body), "the digest is that of what the server got"
    assert body["response_format"]["json_schema"]["name"] == "colour"
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["colour"]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.2, 7, 64)
    assert usage == {"colour": Usage(answered=1, prompt_tokens=10, completion_tokens=5)}


def test_a_staged_answer_is_not_asked_again(tmp_path):
    first, _, _ = ask_once(lambda n, b: Reply('{"colour": "red"}'), tmp_path)
    second, bodies, _ = ask_once(lambda n, b: Reply('{"colour": "blue"}'), tmp_path)
    assert (second, bodies) == (first, [])


def test_an_unusable_answer_is_corrected_once_and_the_right_one_staged(tmp_path):
    said = ['{"colour": "black"}', '{"colour": "red"}']
    (colour, request), bodies, _ = ask_once(lambda n, b: Reply(said[n]), tmp_path)
    assert colour == "red"
    assert request == digest_json(bodies[1])
    assert [message["role"] for message in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert "black is no colour" in bodies[1]["messages"][2]["content"]
    again, bodies, _ = ask_once(lambda n, b: Reply("not asked"), tmp_path)
    assert (again, bodies) == (("red", request), [])


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        pytest.param('{"colour": "black"}', "black is no colour", id="refused by the module"),
        pytest.param('{"color": "red"}', "does not fit its schema", id="wrong shape"),
        pytest.param("red, I think", "holds no JSON object", id="prose"),
    ],
)
def test_an_answer_that_stays_unusable_is_an_error_and_not_staged(tmp_path, said, fault):
    with pytest.raises(AnswerError, match=fault):
        ask_once(lambda n, b: Reply(said), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_after_a_refusal_nothing_more_is_sent(tmp_path):
    """Those that wait for their turn would be refused too."""
    with scripted_server(lambda n, b: Reply(status=401, error="no such key")) as server:

        async def ask_all():
            settings = ServerSettings([server.base_url], "m", 5, 1, "Auto", 1000)
            client = VlmClient(settings)
            body = {"model": "m", "messages": [], "max_tokens": 10}

            async def ask_in_turn():
                async with client.turn(can_wait=False):
                    return await client.complete(body, "colour", "")

            found = await asyncio.gather(*(ask_in_turn() for _ in range(5)), return_exceptions=True)
            await client.close()
            return found

        found = asyncio.run(ask_all())
        assert [type(error) for error in found] == [ConfigurationError] * 5
        assert len(server.bodies) == 1


def test_a_cut_answer_is_asked_again_with_more_tokens(tmp_path):
    def script(number, body):
        return Reply('{"colour": "r', finish_reason="length") if number < 2 else Reply('{"colour": "red"}')

    (colour, request), bodies, _ = ask_once(script, tmp_path)
    assert colour == "red"
    assert [body["max_tokens"] for body in bodies] == [64, 128, 256]
    assert request == digest_json(bodies[2])


def test_an_answer_that_is_always_cut_is_an_error(tmp_path):
    with pytest.raises(AnswerError, match=r"cut at 256 tokens; raise spec\.model\.maxOutputTokens"):
        ask_once(lambda n, b: Reply('{"colour": "r', finish_reason="length"), tmp_path)


def test_more_tokens_stay_within_the_context(tmp_path):
    with pytest.raises(AnswerError, match=r"cut at 90 tokens, which fill the context \(100\)"):
        ask_once(lambda n, b: Reply("{", finish_reason="length"), tmp_path, context_tokens=100)


def test_a_server_that_refuses_schemas_gets_them_as_text_from_then_on(tmp_path):
    def script(number, body):
        if "response_format" in body:
            return Reply(status=400, error="response_format json_schema is not supported")
        return Reply('Sure: {"colour": "red"}')

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path) as one:
                first = await ask(one, "first?")
                second = await ask(one, "second?")
                return first, second, server.bodies

    (colour, request), _, bodies = asyncio.run(run())
    assert colour == "red"
    assert request == digest_json(bodies[1])
    assert ["response_format" in body for body in bodies] == [True, False, False]
    assert "JSON schema" in bodies[1]["messages"][0]["content"][-1]["text"]


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        pytest.param(
            lambda n, b: Reply(status=400, error="response_format is not supported"),
            {"structured_outputs": "Required"},
            id="a schema refused where it is required",
        ),
        pytest.param(lambda n, b: Reply(status=400, error="context length exceeded"), {}, id="another 400"),
        pytest.param(lambda n, b: Reply(status=401, error="bad key"), {}, id="a wrong key"),
        pytest.param(lambda n, b: Reply(status=404, error="no such model"), {}, id="an unknown model"),
    ],
)
def test_what_the_server_refuses_as_such_is_a_configuration_error(tmp_path, script, settings):
    with pytest.raises(ConfigurationError, match="refuses the request"):
        ask_once(script, tmp_path, **settings)


def test_a_busy_or_broken_server_is_tried_again(tmp_path):
    def script(number, body):
        if number == 0:
            return Reply(status=429, error="busy", headers={"Retry-After": "0"})
        return Reply(status=500, error="oops") if number == 1 else Reply('{"colour": "red"}')

    (colour, _), bodies, usage = ask_once(script, tmp_path)
    assert (colour, len(bodies)) == ("red", 3)
    assert (usage["colour"].requests, usage["colour"].retries) == (1, 2)


def test_the_bound_on_requests_in_flight_holds_for_all_questions(tmp_path):
    gate = threading.Barrier(3)

    def script(number, body):
        gate.wait(timeout=10)
        return Reply(json.dumps({"colour": "red"}))

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path, requests_in_flight=3) as one:
                await asyncio.gather(*(ask(one, f"{number}?") for number in range(12)))
            return server.most_in_flight, len(server.bodies)

    assert asyncio.run(run()) == (3, 12)


class StoreWithLatency(StagingStore):
    """A folder that takes its time, as a bucket does."""

    async def create(self, path, content):
        await asyncio.sleep(0.2)
        return await super().create(path, content)


def test_the_next_question_goes_out_when_the_answer_is_staged(tmp_path):
    """A kill between the two would lose more than the requests in flight."""
    staged_at_each_request = []

    def script(number, body):
        staged_at_each_request.append(len(list(tmp_path.rglob("answers/*/*.json"))))
        return Reply('{"colour": "red"}')

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path, requests_in_flight=1) as one:
                slow = replace(one, store=StoreWithLatency(tmp_path))
                await asyncio.gather(*(ask(slow, f"{number}?") for number in range(5)))

    asyncio.run(run())
    assert staged_at_each_request == list(range(5))


def test_no_server_is_not_ready(tmp_path):
    with scripted_server(lambda n, b: Reply("{}")) as server:
        gone = server.base_url

    async def run():
        async with asker(gone, tmp_path) as one:
            await one.client.check_model()

    with pytest.raises(ServerNotReadyError, match="no model server at"):
        asyncio.run(run())


def test_a_model_that_is_not_served_is_named_with_those_that_are(tmp_path):
    async def run():
        with scripted_server(lambda n, b: Reply("{}"), models=("a", "b")) as server:
            async with asker(server.base_url, tmp_path) as one:
                await one.client.check_model()

    with pytest.raises(ConfigurationError, match="serves 'a', 'b', not 'm'"):
        asyncio.run(run())


def test_a_server_that_stays_broken_is_a_failed_request(tmp_path, monkeypatch):
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 1)
    with pytest.raises(RequestFailedError, match="no answer in 2 tries"):
        ask_once(lambda n, b: Reply(status=503, error="down"), tmp_path)


def test_questions_of_an_episode_go_to_one_server_and_episodes_to_all():
    asked = {}

    async def run(urls):
        settings = ServerSettings(urls, "m", 10, 4, "Auto", 4096)
        client = VlmClient(settings)
        try:
            for episode in map(str, range(20)):
                for number in range(3):
                    body = {"model": "m", "messages": [], "max_tokens": 8, "seed": int(episode) * 10 + number}
                    await client.complete(body, "colour", affinity=episode)
        finally:
            await client.close()

    def script(name):
        def answer(number, body):
            asked.setdefault(body["seed"] // 10, []).append(name)
            return Reply("{}")

        return answer

    with scripted_server(script("a")) as a, scripted_server(script("b")) as b:
        asyncio.run(run([a.base_url, b.base_url]))
    assert all(len(set(servers)) == 1 and len(servers) == 3 for servers in asked.values())
    assert {servers[0] for servers in asked.values()} == {"a", "b"}


TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains 5000 input tokens, "
    "which exceeds this limit even without any output tokens."
)


def test_a_prompt_beyond_the_context_names_the_settings_and_ends_the_run_if_it_is_the_first(tmp_path):
    with pytest.raises(ConfigurationError, match=r"5000 input tokens.*--max-model-len.*spec\.modules\.plan"):
        ask_once(lambda n, b: Reply(status=400, error=TOO_LONG), tmp_path)


def test_a_prompt_beyond_the_context_names_the_settings_and_fails_alone_after_others(tmp_path):
    def script(number, body):
        return Reply(status=400, error=TOO_LONG) if number else Reply('{"colour": "red"}')

    async def run():
        with scripted_server(script) as server:
            async with asker(server.base_url, tmp_path) as one:
                await ask(one, "first?")
                await ask(one, "second?")

    with pytest.raises(AnswerError, match=r"5000 input tokens.*--max-model-len.*spec\.modules\.plan"):
        asyncio.run(run())
