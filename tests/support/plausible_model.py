"""An HTTP server that answers our questions and those of LeRobot's pipeline at once, without looking.

Its answers are fixed and of the right shape: for measuring, and for making LeRobot's pipeline write rows.
Both get the same subtasks for the same duration, so both have the same work. It counts what it was asked.
"""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

from annotationrun_worker.demo.answers import answer as look_and_answer
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.vlm.request import is_probe

MODEL = "plausible"
SUBTASK_SECONDS = 3.0
"""A subtask for each of these, eight at most: on the reference dataset as many as a model finds."""
MOST_SUBTASKS = 8

_LEROBOT_KINDS = (
    (r"This is an OBSERVATION pass", "description"),
    (r"Reconstruct the sequence of COMPLETED manipulation events", "subtasks"),
    (r"Annotate one fixed segment", "label"),
    (r"alternative phrasings of the same task", "rephrasings"),
    (r"NAMED 5-axis taxonomy", "task_axes"),
    (r"compressed semantic memory", "memory"),
    (r"describe in ONE concise sentence what the robot", "task"),
    (r"Generate a short verbal acknowledgement", "speech"),
    (r"Write ONE compact interjection", "interjection"),
    (r'Generate a question of type "(\w+)"', "vqa_"),
)
"""A sentence of each prompt of LeRobot 0.6.1, which asks without a schema, and the kind of question it is."""
_DURATION = re.compile(r"(?:from 0\.00 to|within\s+\[0\.0,) ([\d.]+\d)")
_COUNT = re.compile(r"[Ee]xactly (\d+)")

_VQA_ANSWERS: Mapping[str, Mapping[str, Any]] = {
    "bbox": {"detections": [{"label": "square", "bbox_format": "xyxy", "bbox": [20, 30, 60, 70]}]},
    "keypoint": {"label": "square", "point_format": "xy", "point": [40, 50]},
    "count": {"label": "square", "count": 1},
    "attribute": {"label": "square", "attribute": "colour", "value": "orange"},
    "spatial": {"subject": "square", "relation": "above", "object": "code"},
}


class UnknownPromptError(ValueError):
    """A prompt that is neither ours nor LeRobot's 0.6.1."""


def kind_of(body: Mapping[str, Any]) -> str:
    """What a request asks: the name of its schema, or what LeRobot's prompt is recognised by.

    Raises:
        UnknownPromptError: it has no schema, and no prompt of LeRobot's is in it.
    """
    schema = body.get("response_format", {}).get("json_schema")
    if schema:
        return str(schema["name"])
    text = text_of(body)
    for pattern, kind in _LEROBOT_KINDS:
        if found := re.search(pattern, text):
            return kind + "".join(found.groups())
    raise UnknownPromptError(f"no schema, and no prompt of LeRobot 0.6.1: {text[:200]!r}")


def text_of(body: Mapping[str, Any]) -> str:
    """All text of a request."""
    contents = (message["content"] for message in body["messages"])
    parts = (part for c in contents for part in ([{"type": "text", "text": c}] if isinstance(c, str) else c))
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def plausible_answer(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer to a request; what no fixed answer fits (a picture drawn to try the model) is looked at.

    Raises:
        UnknownPromptError: it is not known what is asked.
    """
    kind = kind_of(body)
    text = text_of(body)
    if kind.startswith("vqa_"):
        return {"question": "What about the square?", "answer": _VQA_ANSWERS[kind.removeprefix("vqa_")]}
    if kind in _ANSWERS:
        return _ANSWERS[kind](text)
    return look_and_answer(parse_request(dict(body)))


def _subtasks(text: str) -> Mapping[str, Any]:
    seconds = float(_DURATION.findall(text)[-1])
    count = max(1, min(MOST_SUBTASKS, int(seconds / SUBTASK_SECONDS)))
    bounds = [round(seconds * place / count, 2) for place in range(count + 1)]
    return {
        "subtasks": [
            {"text": f"push the square to place {number}", "start": start, "end": end}
            for number, (start, end) in enumerate(pairwise(bounds), start=1)
        ]
    }


def _rephrasings(text: str) -> Mapping[str, Any]:
    return {"rephrasings": [f"Move the square, way {n}" for n in range(1, int(_COUNT.findall(text)[-1]) + 1)]}


_AXES = ("synonym_paraphrase", "omit_arm", "omit_orientation", "omit_grasp_method", "combined_omissions")
_ANSWERS: Mapping[str, Callable[[str], Mapping[str, Any]]] = {
    "description": lambda _: {"description": "0.0-3.0s: the square moves to the right and back."},
    "subtasks": _subtasks,
    "label": lambda _: {"label": "push the square on"},
    "rephrasings": _rephrasings,
    "task_axes": lambda _: {axis: [f"Move the square, {axis}"] for axis in _AXES},
    "memory": lambda _: {"memory": "I pushed the square on."},
    "task": lambda _: {"task": "push the square around the table"},
    "speech": lambda _: {"text": "On it."},
    "interjection": lambda _: {"interjection": "Now push the square on, please.", "speech": "OK."},
}


Answering = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From a request's body to the answer; raises UnknownPromptError."""


@dataclass
class Counts:
    """What the server was asked."""

    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    bytes_received: int = 0
    """Of the requests' bodies."""
    images: int = 0
    most_in_flight: int = 0
    first_request_seconds: float | None = None
    """When it had arrived, on the monotonic clock."""
    last_answer_seconds: float | None = None
    refused: list[str] = field(default_factory=list)
    """Why requests were not answered."""


class PlausibleServer(ThreadingHTTPServer):
    """The server; each answer comes ``latency_seconds`` after its request has arrived."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, latency_seconds: float, answer: Answering) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.latency_seconds = latency_seconds
        self.counts = Counts()
        self.in_flight = 0
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: PlausibleServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits up to 40 ms for the client's acknowledgement
    wbufsize = -1

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        arrived = time.monotonic()
        counts, lock = self.server.counts, self.server.lock
        with lock:
            self.server.in_flight += 1
            counts.most_in_flight = max(counts.most_in_flight, self.server.in_flight)
            counts.bytes_received += len(raw)
            if counts.first_request_seconds is None:
                counts.first_request_seconds = arrived
            counts.images += raw.count(b'"image_url"') // 2
        status, content = self._complete(json.loads(raw))
        time.sleep(max(0.0, arrived + self.server.latency_seconds - time.monotonic()))
        with lock:
            self.server.in_flight -= 1
            counts.last_answer_seconds = time.monotonic()
        self._send(status, content)

    def _complete(self, body: dict[str, Any]) -> tuple[int, Mapping[str, Any]]:
        counts = self.server.counts
        try:
            text = json.dumps(self.server.answer(body))
            kind = kind_of(body)
        except ValueError as error:
            if not is_probe(body):
                with self.server.lock:
                    counts.refused.append(str(error))
            return 400, {"error": {"message": str(error), "type": "BadRequestError"}}
        if not is_probe(body):
            with self.server.lock:
                counts.requests += 1
                counts.kinds[kind] += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        head = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {**head, "choices": [choice], "usage": usage}

    def _send(self, status: int, value: Mapping[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass


@contextmanager
def plausible_server(
    latency_seconds: float = 0.0, answer: Answering = plausible_answer
) -> Iterator[PlausibleServer]:
    """The server, in a thread of this process for as long as the context lasts."""
    server = PlausibleServer(latency_seconds, answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
