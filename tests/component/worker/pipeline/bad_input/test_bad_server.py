"""Bad model servers and bad answers: waited for where that helps, else named; other episodes are done."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.bad_input import (
    REPAIRED,
    REQUESTS,
    Bench,
    Case,
    Outcome,
    check_failure,
    check_success,
    count_blocks,
)
from tests.support.module_runs import kind_of, look, text_of
from tests.support.openai_server import Reply, Script

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.modules.coordinates import squares_in

ALL = REQUESTS[0] + REQUESTS[3]
RIGHT = count_blocks(0, {}).content or ""
NO_RETRY_AFTER_SECONDS = 1.0
WRONG_SHAPE = {"question": "How many?", "answer": {"label": "block", "count": "two"}}

Tabulate = Callable[[str, str, Outcome], None]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Episode 3 is told from episode 0 by its task, which each prompt names."""
    return Bench(tmp_path, episodes="0,3")


def for_episode_3(reply: Callable[[], Reply]) -> Script:
    """Episode 0 is answered well."""

    def script(number: int, body: dict[str, Any]) -> Reply:
        return reply() if "Stack blocks" in text_of(body) else count_blocks(number, body)

    return script


def hang() -> Reply:
    """Far longer than the client waits; the thread ends with the test's process."""
    threading.Event().wait(120)
    return Reply(RIGHT)


def completion(content: bytes) -> bytes:
    """A completion with these bytes as its content, between quotes."""
    return b'{"choices": [{"message": {"content": "' + content + b'"}, "finish_reason": "stop"}]}'


@dataclass(frozen=True)
class BadAnswers(Case):
    """A server that answers questions about episode 3 badly."""

    reply: Callable[[], Reply] = hang
    model: dict[str, Any] = field(default_factory=dict)


UNUSABLE = r"8 of 8 answers are unusable, more than failurePolicy\.maxUnansweredPercent"
OF_AN_EPISODE = [
    BadAnswers(
        "hang",
        ExitCode.INCOMPLETE,
        (
            r"the server at 'http://127\.0\.0\.1:\d+/v1' gave no answer in 6 tries",
            r"may take 1 s .*requestTimeoutSeconds",
        ),
        hang,
        {"requestTimeoutSeconds": 1},
    ),
    BadAnswers(
        "truncated stream",
        ExitCode.INCOMPLETE,
        ("gave no answer in 6 tries", "peer closed connection"),
        lambda: Reply(body=completion(b"red")[:40], missing_bytes=60),
    ),
    BadAnswers(
        "finish_reason: length",
        ExitCode.INCOMPLETE,
        (UNUSABLE, r"cut at 2048 tokens; raise spec\.model\.maxOutputTokens"),
        lambda: Reply('{"question": "How', finish_reason="length"),
    ),
    BadAnswers(
        "JSON of the wrong shape",
        ExitCode.INCOMPLETE,
        (UNUSABLE, "'vqa_count' stays unusable after a correction", r"answer.*count", '"two"'),
        lambda: Reply(json.dumps(WRONG_SHAPE)),
    ),
    BadAnswers(
        "no JSON",
        ExitCode.INCOMPLETE,
        (UNUSABLE, "the answer holds no JSON object: 'I see two blocks.'"),
        lambda: Reply("I see two blocks."),
    ),
    BadAnswers(
        "empty answer",
        ExitCode.INCOMPLETE,
        (UNUSABLE, r"the answer is empty \(finish_reason 'stop'\)"),
        lambda: Reply(""),
    ),
    BadAnswers(
        "non-UTF-8",
        ExitCode.INCOMPLETE,
        (r"the server at 'http://127\.0\.0\.1:\d+/v1' sent no ChatResponse", "can't decode byte 0xff"),
        lambda: Reply(body=completion(b"\xff\xfe")),
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in OF_AN_EPISODE])
def test_bad_answers_fail_their_episode_alone_and_are_all_that_a_rerun_asks_for(
    case: BadAnswers, bench: Bench, tabulate: Tabulate
) -> None:
    bad = bench.run(for_episode_3(case.reply), model=case.model)
    tabulate("model", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.message.startswith("annotationrun: 1 of 2 episodes failed")
    assert bad.message.splitlines()[1].startswith("  episode 3, vqa: ")
    assert len(list(bench.staging.glob("results/vqa/*/*.jsonl"))) == 1, "episode 0 is done"
    good = bench.run(model=case.model, **REPAIRED)
    check_success(good, bench)
    assert good.asked == REQUESTS[3]


@dataclass(frozen=True)
class BadServer(Case):
    """A server that is no use at all."""

    models: tuple[str, ...] | Reply = ("demo-vlm",)
    script: Script = count_blocks
    arguments: tuple[str, ...] = ()


def unauthorized(number: int, body: dict[str, Any]) -> Reply:
    return Reply(status=401, error="Unauthorized")


OF_ALL = [
    BadServer(
        "unreachable",
        ExitCode.SERVER_NOT_READY,
        (r"no model server at 'http://127\.0\.0\.1:9/v1'", "start it or correct the endpoint"),
        arguments=("--endpoint", "http://127.0.0.1:9/v1"),
    ),
    BadServer(
        "401",
        ExitCode.CONFIGURATION,
        (r"'http://127\.0\.0\.1:\d+/v1' refuses the request \(HTTP 401\)", "Unauthorized", "API key"),
        models=Reply(status=401, body=b'{"error": "Unauthorized"}'),
    ),
    BadServer(
        "401 on questions alone",
        ExitCode.CONFIGURATION,
        (r"refuses the request \(HTTP 401\)", "Unauthorized", "API key"),
        script=unauthorized,
    ),
    BadServer(
        "another model",
        ExitCode.CONFIGURATION,
        (r"serves 'another', not 'demo-vlm'", r"set spec\.model\.id"),
        models=("another",),
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in OF_ALL])
def test_a_server_that_is_no_use_ends_the_run_and_what_was_staged_stays(
    case: BadServer, bench: Bench, staged_first: Path, tabulate: Tabulate
) -> None:
    bench.stage(staged_first)
    before = bench.staged()
    assert before
    bad = bench.run(case.script, case.models, case.arguments)
    tabulate("model", case.name, bad)
    check_failure(case, bad, bench)
    assert bench.staged().items() >= before.items()
    good = bench.run()
    check_success(good, bench)
    assert good.asked == REQUESTS[3]


def boxes_in_thousandths(number: int, body: dict[str, Any]) -> Reply:
    def detection(label: str, box: tuple[int, ...]) -> dict[str, Any]:
        return {"label": label, "bbox_format": "xyxy", "bbox": list(box)}

    if kind_of(body) == "coordinate_probe":
        places = squares_in((1000, 1000))
        return Reply(json.dumps({"boxes": [detection(colour, box) for colour, box in places.items()]}))
    answer = {"detections": [detection("block", (100, 100, 300, 300))]}
    return Reply(json.dumps({"question": "Where is it?", "answer": answer}))


def test_the_wrong_coordinate_scale_is_found_before_a_question_is_asked(
    bench: Bench, tabulate: Tabulate
) -> None:
    bench.modules = {"vqa": {"questionTypes": ["bbox"], "emissionHz": 0.1}}
    case = Case(
        "the wrong coordinate scale",
        ExitCode.CONFIGURATION,
        (
            "'demo-vlm' answers coordinates in Thousandths, but Pixels are expected",
            r"set spec\.model\.coordinateScale to Thousandths",
        ),
    )
    bad = bench.run(boxes_in_thousandths)
    tabulate("model", case.name, bad)
    check_failure(case, bad, bench)
    assert [kind_of(body) for body in bad.bodies] == ["coordinate_probe"]
    good = bench.run(boxes_in_thousandths, model={"coordinateScale": "Thousandths"})
    check_success(good, bench)
    assert good.asked == 1 + ALL


def test_a_server_that_shrinks_the_pictures_is_found_before_a_question_is_asked(
    bench: Bench, tabulate: Tabulate
) -> None:
    """It answers in pixels of its own picture, a third smaller than the one it was sent."""

    def shrunk(number: int, body: dict[str, Any]) -> Reply:
        answer = json.loads(look(body).content or "")
        for box in answer.get("boxes", ()):
            box["bbox"] = [value * 2 / 3 for value in box["bbox"]]
        return Reply(json.dumps(answer))

    bench.modules = {"vqa": {"questionTypes": ["bbox"], "emissionHz": 0.1}}
    case = Case(
        "a server that shrinks pictures",
        ExitCode.CONFIGURATION,
        (
            "answers boxes in pixels of a picture of about 213x160, but was sent one of 320x240",
            "max_pixels",
        ),
    )
    bad = bench.run(shrunk)
    tabulate("model", case.name, bad)
    check_failure(case, bad, bench)
    assert [kind_of(body) for body in bad.bodies] == ["coordinate_probe"]


ANSWERS_THAT_WORK = [
    pytest.param("<think> before the JSON", f"<think>Two? {{No}}, one.</think>\n{RIGHT}", id="thinking"),
    pytest.param("prose around the JSON", f"Sure, here it is:\n```json\n{RIGHT}\n```\nBye!", id="prose"),
]


@pytest.mark.parametrize(("name", "said"), ANSWERS_THAT_WORK)
def test_what_a_model_says_around_its_json_is_left_out(
    name: str, said: str, bench: Bench, tabulate: Tabulate
) -> None:
    done = bench.run(lambda number, body: Reply(said))
    tabulate("model", name, done)
    check_success(done, bench)
    assert done.asked == ALL


def test_429_is_waited_for_as_long_as_the_server_says(bench: Bench, tabulate: Tabulate) -> None:
    came: dict[str, list[float]] = {}

    def script(number: int, body: dict[str, Any]) -> Reply:
        came.setdefault(json.dumps(body), []).append(time.monotonic())
        if number < 3:
            return Reply(status=429, error="too many requests", headers={"Retry-After": "2"})
        return count_blocks(number, body)

    done = bench.run(script)
    tabulate("model", "429 with Retry-After", done)
    check_success(done, bench)
    again = [times for times in came.values() if len(times) > 1]
    assert done.asked == ALL + 3
    assert len(again) == 3
    assert all(second - first >= 2 for first, second in again), "the client's own first delay is below 1 s"


def test_bursts_of_500_are_passed_through(bench: Bench, tabulate: Tabulate) -> None:
    def script(number: int, body: dict[str, Any]) -> Reply:
        is_in_burst = number < 4 or 8 <= number < 12
        return Reply(status=500, error="CUDA error") if is_in_burst else count_blocks(number, body)

    done = bench.run(script)
    tabulate("model", "bursts of 500", done)
    check_success(done, bench)
    assert done.asked == ALL + 8
