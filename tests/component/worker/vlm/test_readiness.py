"""Model servers that take their time to start, that go away and come back, and keys: on real HTTP."""

import asyncio
import contextlib
import re
import subprocess
import sys

import pytest
from tests.support.asking import ask, asker
from tests.support.openai_server import Reply, scripted_server

from annotationrun_worker.errors import ConfigurationError, RequestFailedError, ServerNotReadyError
from annotationrun_worker.vlm.readiness import POLL_SECONDS, page_url

RED = Reply('{"colour": "red"}')
LOADING = Reply(status=503, body=b"")
LONG, SHORT = 120, 1.5
"""Start timeouts in seconds: one that no test waits for, and one that is over soon."""
KEY = "sk-hunter2"


def red(number, body):
    return RED


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def ask_it(server, folder, *texts, **settings):
    """The outcome of each question, asked one after another, and what was said of waiting."""
    said, outcomes = [], []

    async def run():
        async with asker(server.base_url, folder, say=said.append, **settings) as one:
            for text in texts or ("which colour?",):
                (outcome,) = await asyncio.gather(ask(one, text), return_exceptions=True)
                outcomes.append(outcome if isinstance(outcome, BaseException) else outcome[0])

    asyncio.run(run())
    return outcomes, said


@pytest.mark.parametrize(
    ("base_url", "health"),
    [
        pytest.param("http://h:8000/v1", "http://h:8000/health", id="vLLM's own"),
        pytest.param("https://h/models/a/v1", "https://h/models/a/health", id="below a path"),
        pytest.param("http://h:8000", "http://h:8000/health", id="no path"),
        pytest.param("http://h/api", "http://h/api/health", id="another path"),
    ],
)
def test_health_lies_beside_the_api(base_url, health):
    assert page_url(base_url, "health") == health


def test_a_server_that_is_loading_is_waited_for_and_asked_nothing_before(tmp_path):
    with scripted_server(red) as server:
        asked_when_healthy = []

        def health(number):
            asked_when_healthy.append(len(server.bodies))
            return LOADING if number < 2 else Reply(body=b"")

        server.health = health
        outcomes, said = ask_it(server, tmp_path, "first?", "second?", start_timeout_seconds=LONG)
    assert outcomes == ["red", "red"]
    assert asked_when_healthy == [0, 0, 0]
    (line,) = said
    assert re.search(rf"waiting for the model server, {LONG} s at most: .*{server.base_url}.*503", line)


@pytest.mark.parametrize("status", [404, 401, 405])
def test_a_server_without_health_is_ready_when_it_lists_the_model(tmp_path, status):
    with scripted_server(red) as server:
        server.health = lambda number: Reply(status=status, body=b"")
        assert ask_it(server, tmp_path, start_timeout_seconds=LONG) == (["red"], [])
        assert server.looks_at_health == 1


def test_a_healthy_server_of_another_model_is_an_error_at_once(tmp_path):
    with scripted_server(red, models=("another",)) as server:
        (outcome,), said = ask_it(server, tmp_path, start_timeout_seconds=LONG)
    assert type(outcome) is ConfigurationError
    assert said == []


@pytest.mark.parametrize(
    ("health", "models", "cause"),
    [
        pytest.param(LOADING, ("m",), "503", id="never healthy"),
        pytest.param(Reply(status=404), Reply(status=503, body=b""), "503", id="no health, no models"),
        pytest.param(Reply(), Reply(body=b"<html>loading</html>"), "20 bytes", id="an odd list of models"),
    ],
)
def test_a_server_that_is_not_ready_in_time_is_named_with_the_last_cause(tmp_path, health, models, cause):
    with scripted_server(red, models=models) as server:
        server.health = lambda number: health
        (outcome,), _ = ask_it(server, tmp_path, start_timeout_seconds=SHORT)
    assert type(outcome) is ServerNotReadyError
    assert f"was not ready within {SHORT} s" in str(outcome)
    assert server.base_url in str(outcome)
    assert cause in str(outcome)
    assert server.bodies == []


def test_without_a_start_timeout_health_is_not_asked(tmp_path):
    with scripted_server(red) as server:
        server.health = lambda number: LOADING
        assert ask_it(server, tmp_path) == (["red"], [])
        assert server.looks_at_health == 0


PROGRAM = """
import sys
from tests.support.openai_server import Reply, ScriptedServer
server = ScriptedServer(lambda number, body: Reply('{"colour": "red"}'), ("m",), int(sys.argv[1]))
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def server_process(port=0):
    """A server in a process of its own, which is killed at the end; gives its port."""
    command = [sys.executable, "-c", PROGRAM, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def test_questions_to_a_killed_server_wait_together_until_it_runs_again(tmp_path):
    async def run():
        away, said = asyncio.Event(), []

        def say(text):
            said.append(text)
            away.set()

        with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
            port = first.enter_context(server_process())
            url = f"http://127.0.0.1:{port}/v1"
            async with asker(url, tmp_path, say=say, start_timeout_seconds=LONG) as one:
                before = await ask(one, "before?")
                await asyncio.to_thread(first.close)
                asking = [asyncio.create_task(ask(one, f"{number}?")) for number in range(3)]
                await asyncio.wait_for(away.wait(), LONG)
                second.enter_context(server_process(port))
                return [before, *await asyncio.gather(*asking)], said

    answers, said = asyncio.run(run())
    assert [colour for colour, _ in answers] == ["red"] * 4
    assert len(said) == 1
    assert "Connection" in said[0]


def test_a_killed_server_that_stays_away_is_not_ready(tmp_path):
    async def run():
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(server_process())
            url = f"http://127.0.0.1:{port}/v1"
            async with asker(url, tmp_path, start_timeout_seconds=SHORT) as one:
                await ask(one, "before?")
                stack.close()
                with pytest.raises(
                    ServerNotReadyError, match=rf"within {SHORT} s: no model server at '{url}'"
                ):
                    await ask(one, "after?")

    asyncio.run(run())


def test_503_is_waited_out_though_the_server_calls_itself_healthy(tmp_path):
    with scripted_server(lambda n, b: Reply(status=503, error="starting") if n < 3 else RED) as server:
        outcomes, _ = ask_it(server, tmp_path, start_timeout_seconds=LONG)
        assert outcomes == ["red"]
        assert len(server.bodies) == 4


def test_503_without_end_is_a_server_that_is_not_ready(tmp_path):
    with scripted_server(lambda n, b: Reply(status=503, error="starting")) as server:
        (outcome,), _ = ask_it(server, tmp_path, start_timeout_seconds=SHORT)
        assert 1 <= len(server.bodies) <= 2 + SHORT / POLL_SECONDS
    assert type(outcome) is ServerNotReadyError
    assert re.search(rf"{server.base_url}.*answered no question for {SHORT} s.*starting", str(outcome))


def test_a_question_that_its_server_dies_of_is_asked_three_times(tmp_path):
    """It may be the question; the next one is asked all the same."""

    def script(number, body):
        return Reply(body=b"{", missing_bytes=9) if "poison?" in str(body) else RED

    with scripted_server(script) as server:
        (died, next_one), _ = ask_it(server, tmp_path, "poison?", "which?", start_timeout_seconds=LONG)
        assert len(server.bodies) == 4
    assert type(died) is RequestFailedError
    assert next_one == "red"


def test_the_key_goes_with_every_request(tmp_path):
    with scripted_server(red) as server:
        ask_it(server, tmp_path, api_key=KEY, start_timeout_seconds=LONG)
        assert server.keys == {f"Bearer {KEY}"}
        assert server.looks_at_health == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [pytest.param(401, ConfigurationError, id="refused"), pytest.param(500, RequestFailedError, id="failed")],
)
def test_a_key_that_the_server_repeats_is_not_shown(tmp_path, status, expected):
    script = lambda n, b: Reply(status=status, error=f"Incorrect API key provided: {KEY}")  # noqa: E731
    with scripted_server(script) as server:
        (outcome,), _ = ask_it(server, tmp_path, api_key=KEY)
    assert type(outcome) is expected
    assert "Incorrect API key provided: ..." in str(outcome)
    assert "hunter2" not in str(outcome)
