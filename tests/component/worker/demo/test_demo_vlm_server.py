"""The demo model's server: its log, what it refuses, and its life as a process."""

import hashlib
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64decode

import pytest
from tests.support.demo import LAYOUT, ask, chat_body, frame_content, post, sheets_content

from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.vlm_server import run_server
from annotationrun_worker.staging.digests import digest_json

INDICES = range(0, 23 * 15, 15)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.jsonl"


@pytest.fixture
def server(log):
    with run_server(log) as server:
        yield server.base_url


def lines(log) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_log_names_the_request_and_the_time_and_code_of_every_tile(server, log):
    pictures = [frame_code.render(index, 1, 4) for index in INDICES]
    seconds = [place / 2 for place in range(len(pictures))]
    body = chat_body("subtasks", sheets_content("subtasks", pictures, seconds, LAYOUT))
    response = post(server, body)
    (line,) = lines(log)
    assert line["digest"] == digest_json(body)
    assert line["kind"] == "subtasks"
    assert line["answer"] == json.loads(response["choices"][0]["message"]["content"])
    sent = [
        b64decode(part["image_url"]["url"].partition(",")[2])
        for part in body["messages"][0]["content"]
        if part["type"] == "image_url"
    ]
    assert [image["sha256"] for image in line["images"]] == [
        hashlib.sha256(jpeg).hexdigest() for jpeg in sent
    ]
    assert [(i["width"], i["height"], len(i["tiles"])) for i in line["images"]] == [
        (5 * 224, 4 * 168, 20),
        (3 * 224, 168, 3),
    ]
    tiles = [tile for image in line["images"] for tile in image["tiles"]]
    assert [tile["badge"] for tile in tiles] == [f"{time:06.2f}s" for time in seconds]
    assert [tile["badge_seconds"] for tile in tiles] == seconds
    assert [tile["code"] for tile in tiles] == [{"index": i, "camera": 1, "episode": 4} for i in INDICES]


def test_a_single_frame_has_a_code_and_no_badge_in_the_log(server, log):
    ask(server, "vqa_bbox", frame_content(frame_code.render(77, 0, 2)))
    (line,) = lines(log)
    (image,) = line["images"]
    code = {"index": 77, "camera": 0, "episode": 2}
    assert image["tiles"] == [{"badge": None, "badge_seconds": None, "told_seconds": None, "code": code}]


def test_the_same_request_gets_the_same_answer(server, log):
    body = chat_body("vqa_attribute", frame_content(frame_code.render(77, 0, 2)))
    one, other = post(server, body), post(server, body)
    assert one["choices"] == other["choices"]
    assert len({line["digest"] for line in lines(log)}) == 1


def test_the_response_is_a_chat_completion(server):
    response = post(server, chat_body("rephrasings", [{"type": "text", "text": "Task: a b c\nexactly 2"}]))
    assert response["object"] == "chat.completion"
    assert response["model"] == "demo-vlm"
    (choice,) = response["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant"
    usage = response["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_request_without_a_schema_is_answered_by_what_its_text_asks_for(server, log):
    body = chat_body("vqa_bbox", frame_content(frame_code.render(5, 0, 1)))
    del body["response_format"]
    body["messages"][0]["content"].append({"type": "text", "text": 'Answer: {"detections": [...]}'})
    assert (
        len(json.loads(post(server, body)["choices"][0]["message"]["content"])["answer"]["detections"]) == 1
    )
    assert lines(log)[0]["kind"] == "vqa_bbox"


FRAME = frame_content(frame_code.render(0, 0, 0))
BROKEN = [{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}}]
REMOTE = [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]
SHEET = [*FRAME, {"type": "text", "text": "1 contact sheets with 7 frames in total, 3 columns wide, at most 7 frames on a sheet"}]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        pytest.param(chat_body("vqa_bbox", FRAME, model="other"), 404, "`other` does not exist", id="model"),
        pytest.param(chat_body("weather", FRAME), 400, "can't answer 'weather'", id="unknown kind"),
        pytest.param(chat_body("subtasks", []), 400, "without a picture", id="no picture"),
        pytest.param(chat_body("vqa_bbox", BROKEN), 400, "can't be decoded", id="broken picture"),
        pytest.param(
            chat_body("vqa_bbox", REMOTE), 400, "without `--allowed-local-media-path`", id="a file's URL"
        ),
        pytest.param(chat_body("subtasks", SHEET), 400, "don't fill", id="a sheet of another size"),
        pytest.param(chat_body("vqa_bbox", FRAME, stream=True), 400, "does not stream", id="streaming"),
        pytest.param({"model": "demo-vlm"}, 400, "messages", id="no messages"),
        pytest.param([1, 2], 400, "expected an object", id="no object"),
    ],
)
def test_what_can_not_be_answered_is_refused_in_openai_form_and_not_logged(
    server, log, body, status, message
):
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, body)
    with refused.value as response:
        error = json.load(response)["error"]
    assert response.code == error["code"] == status
    assert message in error["message"]
    assert lines(log) == []
    ask(server, "speech", [{"type": "text", "text": "Task: Stack blocks"}])
    assert [line["kind"] for line in lines(log)] == ["speech"]


def test_it_tells_its_model_and_its_health(server):
    with urllib.request.urlopen(f"{server}/models", timeout=10) as response:
        assert [model["id"] for model in json.load(response)["data"]] == ["demo-vlm"]
    with urllib.request.urlopen(f"{server.removesuffix('/v1')}/health", timeout=10) as response:
        assert response.status == 200


def test_each_answer_waits_for_the_latency(log):
    with run_server(log, latency_seconds=0.3) as server:
        started = time.monotonic()
        ask(server.base_url, "speech", [{"type": "text", "text": "Task: Stack blocks"}])
        assert time.monotonic() - started >= 0.3


def test_as_a_process_it_says_where_it_listens_and_ends_on_sigterm(log):
    command = [sys.executable, "-m", "annotationrun_worker.demo.vlm_server", "--port", "0", "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        assert first.startswith("listening on http://127.0.0.1:")
        base_url = first.removeprefix("listening on ").strip()
        answer = ask(base_url, "speech", [{"type": "text", "text": "Task: Stack blocks"}])
        assert answer == {"text": "All right, I will stack blocks."}
        assert len(lines(log)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
