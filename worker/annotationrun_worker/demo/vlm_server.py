"""The demo's vision-language model: a small OpenAI-compatible server that looks at the pixels it is sent.

    python -m annotationrun_worker.demo.vlm_server --port 0 --log requests.jsonl

It prints ``listening on http://127.0.0.1:PORT/v1`` once it is ready, and ends on SIGTERM. It knows
``/health``, ``/v1/models`` and ``/v1/chat/completions`` (not streaming), one model, ``demo-vlm`` if not told
otherwise, and has no way to the dataset. Its log has a line of JSON for each answered request, written before
the answer is sent: the digest of the request's canonical JSON, the kind, for each image its digest and size
and for each tile the time in its badge or, on a single frame, in the text before it, the frame code in its
pixels, and the answer. What only tries the server, before a worker's first question, is answered and not
logged.
"""

import argparse
import hashlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from annotationrun_worker.demo.answers import answer
from annotationrun_worker.demo.chat_request import BadRequestError, ChatRequest, SentImage, parse_request
from annotationrun_worker.demo.frame_code import read as read_code
from annotationrun_worker.vlm.request import is_probe

MODEL = "demo-vlm"
_MAX_BODY_BYTES = 256 * 1024**2
_TILE_TOKENS = 64
"""What a tile is said to cost in ``usage``."""
_CHARACTERS_PER_TOKEN = 4
_POLL_SECONDS = 0.02
"""Between two looks of a server in a thread whether it is to stop."""


class DemoVlmServer(ThreadingHTTPServer):
    """The server; it listens from its making on and answers while ``serve_forever`` runs."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        log_path: Path,
        port: int = 0,
        latency_seconds: float = 0.0,
        host: str = "127.0.0.1",
        models: Sequence[str] = (MODEL,),
        media_folder: Path | None = None,
    ) -> None:
        """Listen on ``host``; port 0 takes a free one. Each answer waits for ``latency_seconds``.

        ``models`` are the names it goes by, the first of them in its answers. Requests may refer to files
        below ``media_folder``.

        Raises:
            OSError: the port is taken, or the log can't be written.
        """
        self._log = log_path.open("a", encoding="utf-8")
        self._log_lock = threading.Lock()
        self.latency_seconds = latency_seconds
        self.models = tuple(models)
        self.media_folder = media_folder
        super().__init__((host, port), _Handler)

    @property
    def base_url(self) -> str:
        """Where it listens, with ``/v1``."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    def write_log(self, line: Mapping[str, Any]) -> None:
        """Append one line to the log, at once."""
        text = json.dumps(line, ensure_ascii=False)
        with self._log_lock:
            self._log.write(text + "\n")
            self._log.flush()

    def server_close(self) -> None:
        """Stop listening and close the log."""
        super().server_close()
        with self._log_lock:
            self._log.close()


@contextmanager
def run_server(
    log_path: Path, port: int = 0, latency_seconds: float = 0.0, media_folder: Path | None = None
) -> Iterator[DemoVlmServer]:
    """A server in a thread of this process for as long as the context lasts."""
    server = DemoVlmServer(log_path, port, latency_seconds, media_folder=media_folder)
    thread = threading.Thread(
        target=server.serve_forever, args=(_POLL_SECONDS,), name="demo-vlm", daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: DemoVlmServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits up to 40 ms for the client's acknowledgement
    wbufsize = -1

    def do_GET(self) -> None:
        match self.path.split("?")[0]:
            case "/health":
                self._send(HTTPStatus.OK, {})
            case "/v1/models":
                models = [
                    {"id": name, "object": "model", "created": 0, "owned_by": "annotationrun"}
                    for name in self.server.models
                ]
                self._send(HTTPStatus.OK, {"object": "list", "data": models})
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "NotFoundError", f"there is no {self.path}")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_BODY_BYTES:
            self.close_connection = True
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BadRequestError", f"{length} bytes are too many"
            )
            return
        raw = self.rfile.read(length)
        if self.path.split("?")[0] != "/v1/chat/completions":
            self._refuse(HTTPStatus.NOT_FOUND, "NotFoundError", f"there is no {self.path}")
            return
        try:
            self._complete(_decode(raw))
        except BadRequestError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, "BadRequestError", str(error))

    def _complete(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if model not in self.server.models:
            self._refuse(HTTPStatus.NOT_FOUND, "NotFoundError", f"The model `{model}` does not exist.")
            return
        if body.get("stream"):
            raise BadRequestError("this server does not stream")
        request = parse_request(body, self.server.media_folder)
        answered = answer(request)
        digest = request_digest(body)
        if not is_probe(body):
            self.server.write_log(_log_line(digest, request, answered))
        time.sleep(self.server.latency_seconds)
        self._send(HTTPStatus.OK, _completion(digest, model, request, answered))

    def _refuse(self, status: HTTPStatus, kind: str, message: str) -> None:
        error = {"message": message, "type": kind, "param": None, "code": status.value}
        self._send(status, {"error": error})

    def _send(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        encoded = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401  http.server's signature
        """Say nothing on stderr; the log file has it all."""


def request_digest(body: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the canonical JSON of a request's body: keys sorted, no spaces, UTF-8."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError(f"got a JSON {type(body).__name__}, expected an object")
    return body


def _log_line(digest: str, request: ChatRequest, answered: Mapping[str, Any]) -> dict[str, Any]:
    images = [_image_entry(image) for image in request.images]
    return {"digest": digest, "kind": request.kind, "images": images, "answer": answered}


def _image_entry(image: SentImage) -> dict[str, Any]:
    tiles = [
        {
            "badge": tile.badge,
            "badge_seconds": tile.seconds if tile.badge else None,
            "told_seconds": None if tile.badge else tile.seconds,
            "code": read_code(tile.pixels),
        }
        for tile in image.tiles
    ]
    return {"sha256": image.sha256, "width": image.width, "height": image.height, "tiles": tiles}


def _completion(digest: str, model: str, request: ChatRequest, answered: Mapping[str, Any]) -> dict[str, Any]:
    """The response body, as the OpenAI API has it."""
    content = json.dumps(answered, ensure_ascii=False)
    prompt_tokens = len(request.text) // _CHARACTERS_PER_TOKEN + _TILE_TOKENS * len(request.tiles) + 1
    completion_tokens = len(content) // _CHARACTERS_PER_TOKEN + 1
    return {
        "id": f"chatcmpl-{digest[:24]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def end_on_signals() -> None:
    """End with 0 on SIGTERM and Ctrl-C; the first process of a container gets no signal without a handler."""
    on_signal: Callable[[int, FrameType | None], NoReturn] = _stop
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)


def serve(server: DemoVlmServer) -> None:
    """Answer until SIGTERM or Ctrl-C; whoever waits on stdout is told where it listens."""
    end_on_signals()
    sys.stdout.write(f"listening on {server.base_url}\n")
    sys.stdout.flush()
    try:
        server.serve_forever()
    finally:
        server.server_close()


def main() -> None:
    """Serve on 127.0.0.1 until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="The demo's vision-language model.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--log", type=Path, required=True, help="a line of JSON per answered request")
    parser.add_argument("--latency-seconds", type=float, default=0.0, help="wait before each answer")
    arguments = parser.parse_args()
    serve(DemoVlmServer(arguments.log, arguments.port, arguments.latency_seconds))


if __name__ == "__main__":
    main()
