"""Servers that count in odd ways: their answers are used, and what is no count is left out."""

import asyncio
import json

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.asking import ask, asker
from tests.support.attacks import measured, row
from tests.support.bad_input import MODULES
from tests.support.module_runs import demo_model
from tests.support.openai_server import Reply
from tests.support.raw_server import completion, healthy_but, raw_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import ConfigurationError, RequestFailedError, ServerNotReadyError
from annotationrun_worker.vlm.readiness import read_version
from annotationrun_worker.vlm.server import Usage

ODD_COUNTS = {
    "2^60": 2**60,
    "negative": -5,
    "null": None,
    "text": "many",
    "a number as text": "5",
    "a fraction": 1.5,
    "beyond all floats": float("inf"),
    "no number": float("nan"),
    "true": True,
    "a list": [5],
    "an object": {"tokens": 5},
    "4000 digits": 10**4000,
}


@pytest.fixture(autouse=True)
def tried_once(monkeypatch):
    """The client's own retries take a quarter of a minute."""
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)


def outcome_at(folder, path, body, **settings):
    """What asking a question ends with where the server answers with `body` at `path`, usage and cost."""

    async def run():
        with raw_server(healthy_but(path, lambda exchange: exchange.answer(body))) as server:
            async with asker(server.base_url, folder, **settings) as one:
                with measured() as cost:
                    (outcome,) = await asyncio.gather(ask(one), return_exceptions=True)
                return outcome, one.client, cost

    return asyncio.run(run())


def answer(usage):
    return json.dumps(json.loads(completion('{"colour": "red"}')) | {"usage": usage}).encode()


@pytest.mark.parametrize("odd", [pytest.param(odd, id=name) for name, odd in ODD_COUNTS.items()])
def test_a_count_of_tokens_that_is_none_is_left_out(tmp_path, printed, request, odd):
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": odd,
        "prompt_tokens_details": {"cached_tokens": odd},
    }
    (colour, _), client, cost = outcome_at(tmp_path, "/completions", answer(usage))
    row(printed, f"usage: {request.node.callspec.id}", colour, cost)
    assert client.usage["colour"] == Usage(answered=1, prompt_tokens=10)
    staged = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in staged] == [(10, 0)]


@pytest.mark.parametrize("usage", [None, "none", [], [1], 5, {}, {"prompt_tokens_details": "no"}])
def test_odd_usage_is_none(tmp_path, printed, usage):
    (colour, _), client, cost = outcome_at(tmp_path, "/completions", answer(usage))
    row(printed, f"usage as {usage!r}", colour, cost)
    assert client.usage["colour"] == Usage(answered=1)


def test_no_more_tokens_are_cached_than_there_are(tmp_path):
    usage = {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 11}}
    _, client, _ = outcome_at(tmp_path, "/completions", answer(usage))
    assert client.usage["colour"].cached_tokens == 10


@pytest.mark.parametrize("odd", [pytest.param(odd, id=name) for name, odd in ODD_COUNTS.items()])
def test_an_odd_length_of_a_model_is_not_told(tmp_path, printed, request, odd):
    models = json.dumps({"data": [{"id": "m", "max_model_len": odd}]}).encode()
    outcome, client, cost = outcome_at(tmp_path, "/models", models)
    assert isinstance(outcome, tuple), outcome
    colour, _ = outcome
    row(printed, f"max_model_len: {request.node.callspec.id}", colour, cost)
    assert list(client._readiness.max_model_lens.values()) == [None]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        pytest.param(
            "/completions", b'{"choices": [' + b"0," * 2_000_000 + b"0]}", RequestFailedError, id="choices"
        ),
        pytest.param("/models", b'{"data": [' + b"0," * 2_000_000 + b"0]}", ServerNotReadyError, id="models"),
        pytest.param(
            "/models",
            json.dumps({"data": [{"id": f"{n}\x1b[2J\n" * 9} for n in range(20_000)]}).encode(),
            ConfigurationError,
            id="models of other names",
        ),
        pytest.param(
            "/models",
            json.dumps({"data": [{"id": "x" * 1_000_000}]}).encode(),
            ConfigurationError,
            id="a model of a long name",
        ),
    ],
)
def test_lists_of_many_odd_parts_are_looked_at_in_part(tmp_path, printed, request, path, body, expected):
    assert len(body) < 4 << 20
    outcome, _, cost = outcome_at(tmp_path, path, body)
    row(printed, f"4 MB of {request.node.callspec.id}", type(outcome).__name__, cost)
    assert type(outcome) is expected
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 2000
    assert cost.more_mebibytes < 256


def test_an_odd_reason_to_finish_is_cut(tmp_path):
    body = json.loads(completion(""))
    body["choices"][0]["finish_reason"] = "x\x1b[2J\n" * 1000
    outcome, _, _ = outcome_at(tmp_path, "/completions", json.dumps(body).encode())
    assert "the answer is empty" in str(outcome)
    assert str(outcome).isprintable()
    assert len(str(outcome)) < 1000


@pytest.mark.parametrize(
    ("page", "version"),
    [
        pytest.param(b'{"version": "0.32.0"}', "0.32.0", id="as it should be"),
        pytest.param(b'{"version": {"a": ' * 10_000, None, id="nested"),
        pytest.param(b'{"version": ' + b"[" * 30_000, None, id="nested lists"),
        pytest.param(b'{"version": {"version": "1"}}', None, id="an object"),
        pytest.param(b'{"version": null}', None, id="null"),
        pytest.param(b'{"version": 1e999}', None, id="a number"),
        pytest.param(b'{"version": ""}', None, id="empty"),
        pytest.param(b'["version"]', None, id="a list"),
        pytest.param(b'"version"', None, id="a text"),
        pytest.param(b"null", None, id="nothing"),
        pytest.param(b"\xff\xfe", None, id="no text"),
        pytest.param(b'{"version": "1\\u001b[2J\\n\\ud800"}', r"1\x1b[2J\n\ud800", id="escapes"),
        pytest.param(b'{"version": "' + b"1" * 60_000 + b'"}', "1" * 64, id="without end"),
    ],
)
def test_an_odd_version_is_left_out(tmp_path, printed, request, page, version):
    async def run():
        with raw_server(healthy_but("/version", lambda exchange: exchange.answer(page))) as server:
            async with asker(server.base_url, tmp_path) as one:
                with measured() as cost:
                    return await read_version(one.client._servers[0]), cost

    found, cost = asyncio.run(run())
    row(printed, f"/version: {request.node.callspec.id}", str(found)[:20], cost)
    assert found == version


def test_a_run_at_a_server_of_odd_counts_ends_well(tmp_path, printed):
    """Metrics without end, a version that is none: the run is none the worse, and its report can be read."""
    metrics = Reply(
        body=b'vllm:request_success_total{engine="0"} +Inf\nvllm:prefix_cache_queries_total NaN\n'
        b"vllm:prefix_cache_hits_total -1e300\nvllm:mm_cache_hits_total 3\n"
    )
    with demo_model() as server, measured() as cost:
        server.pages["/metrics"] = lambda: metrics
        server.pages["/version"] = lambda: Reply(body=b'{"version": ' + b'{"version": ' * 5000)
        manifest = write_manifest(tmp_path, REFERENCE, server.base_url, MODULES, source={"episodes": "0"})
        report = tmp_path / "report.json"
        done = run_command("run", "-f", manifest, "--report", report)
    row(printed, "run at a server of odd metrics and version", f"exit {done.returncode}", cost)
    assert done.returncode == ExitCode.OK, done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(report.read_text())["server"]
    assert told["version"] is None
    assert told["counts"] == {
        "answered": 0,
        "prefixHits": 0,
        "prefixQueries": 0,
        "imageHits": 0,
        "imageQueries": 0,
    }
