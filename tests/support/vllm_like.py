"""A server with the limits, the cache of pictures and the words of vLLM 0.32; what it answers is a test's."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.openai_server import Reply, ScriptedServer

from annotationrun_worker.vlm.request import is_probe

CHARACTERS_PER_TOKEN = 4


@dataclass
class VllmLike:
    """A script for questions and probes alike; put in place with `serve_as`."""

    answer: Callable[[dict[str, Any]], Reply]
    """To a question, with all its pictures, those from the cache included."""
    model: str = "demo-vlm"
    multimodal: bool = True
    max_images: int = 999
    model_images: int = 999
    """The model's own limit; that of the settings does not reach beyond."""
    max_videos: int = 999
    max_model_len: int = 32_768
    tokens_per_image: int = 100
    schemas: str = "Honoured"
    """Ignored: they are overlooked; Refused: they are an error; Cut: the answer ends within."""
    cached_images: int = 0
    """That its cache holds; 0: none, and ``uuid`` is overlooked but for a picture that is missing."""
    misses: int = 0
    hits: int = 0
    _cache: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def serve_as(self, server: ScriptedServer) -> None:
        server.script = server.probe = self
        listed = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        server.models = Reply(body=json.dumps({"object": "list", "data": [listed]}).encode())
        server.pages["/version"] = lambda: Reply(body=b'{"version": "0.32.0"}')

    def __call__(self, number: int, body: dict[str, Any]) -> Reply:
        with self._lock:
            refusal = self._fill_in(body)
        if refusal is not None:
            return Reply(status=400, error=refusal)
        tokens = self._tokens(body)
        if tokens > self.max_model_len:
            return Reply(
                status=400,
                error=f"This model's maximum context length is {self.max_model_len} tokens. However, your "
                f"prompt contains {tokens} input tokens, which exceeds this limit even without any output "
                "tokens. Please reduce the length of the input prompt.",
            )
        if "response_format" in body and self.schemas == "Refused":
            return Reply(status=400, error="response_format is not supported by this server")
        reply = self._greet(body) if is_probe(body) else self.answer(body)
        return Reply(reply.content, finish_reason=reply.finish_reason, prompt_tokens=tokens)

    def _greet(self, body: dict[str, Any]) -> Reply:
        if "response_format" not in body or self.schemas == "Ignored":
            return Reply("Hello there!")
        properties = body["response_format"]["json_schema"]["schema"]["properties"]
        said = json.dumps({name: allowed["enum"][0] for name, allowed in properties.items()})
        return Reply(said[:5], finish_reason="length") if self.schemas == "Cut" else Reply(said)

    def _fill_in(self, body: dict[str, Any]) -> str | None:
        """Put the pictures from the cache into their places; what is wrong where that can't be."""
        parts = _parts_of(body, "image_url")
        if parts and not self.multimodal:
            return f"{self.model} is not a multimodal model"
        limit = min(self.max_images, self.model_images)
        if len(parts) > limit:
            raised = " Set `--limit-mm-per-prompt` to increase this limit."
            return f"At most {limit} image(s) may be provided in one prompt." + (
                raised if len(parts) <= self.model_images else ""
            )
        if len(_parts_of(body, "video_url")) > self.max_videos:
            return f"At most {self.max_videos} video(s) may be provided in one prompt."
        for place, part in enumerate(parts):
            if part["image_url"] is None and part["uuid"] not in self._cache:
                self.misses += 1
                return f"Cache miss for image at index {place} but data is not provided."
        for part in parts:
            uuid = part.pop("uuid", None)
            if part["image_url"] is None:
                self.hits += 1
                part["image_url"] = {"url": self._cache[uuid]}
            if uuid is not None and self.cached_images:
                self._cache[uuid] = part["image_url"]["url"]
                self._cache.move_to_end(uuid)
        while len(self._cache) > self.cached_images:
            self._cache.popitem(last=False)
        return None

    def _tokens(self, body: dict[str, Any]) -> int:
        text = sum(len(part.get("text", "")) for part in _parts(body))
        media = len(_parts_of(body, "image_url")) + len(_parts_of(body, "video_url"))
        return text // CHARACTERS_PER_TOKEN + self.tokens_per_image * media


def _parts(body: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [message["content"] for message in body["messages"]]
    return [part for c in contents for part in ([{"type": "text", "text": c}] if isinstance(c, str) else c)]


def _parts_of(body: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [part for part in _parts(body) if part["type"] == kind]
