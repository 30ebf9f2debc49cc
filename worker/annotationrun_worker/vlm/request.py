"""Requests as values: questions, and those that only try a server.

A request as a value: what is asked, in which shape the answer is wanted, and its digest.

What a request that only tries a server has, and is known by; what a run needs of its servers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from annotationrun_worker.vlm.messages import ContentPart, text_part

Answer = TypeVar("Answer", bound=BaseModel)
SEEDS = 2**31
"""Seeds from 0 to this one (exclusive) are taken by every server."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What stands in every request of a run beside its content."""

    model: str
    temperature: float
    seed: int
    max_tokens: int
    chat_template_kwargs: Mapping[str, Any]
    reasoning_effort: str | None

    def for_attempt(self, attempt: int) -> "Sampling":
        """The same with the seed of a later attempt; attempt 0 has the run's own."""
        return replace(self, seed=(self.seed + attempt) % SEEDS)

    @property
    def extras(self) -> dict[str, Any]:
        """Fields of a request that stand in it only where the manifest sets them."""
        extras: dict[str, Any] = {}
        if self.chat_template_kwargs:
            extras["chat_template_kwargs"] = dict(self.chat_template_kwargs)
        if self.reasoning_effort is not None:
            extras["reasoning_effort"] = self.reasoning_effort
        return extras


@dataclass(frozen=True, slots=True)
class Question(Generic[Answer]):
    """One question to the model."""

    kind: str
    """Name of the prompt and of the answer's JSON schema, such as ``subtasks``."""
    content: Sequence[ContentPart]
    answer_type: type[Answer]
    body: Mapping[str, Any] = field(default_factory=dict)
    """What the request needs beside its content, such as ``mm_processor_kwargs``."""
    can_wait: bool = False
    """No other question builds on the answer: those on which others build are asked first."""


@lru_cache
def _schema(answer_type: type[BaseModel]) -> dict[str, Any]:
    """Made once a type: it costs more than all the rest of a request."""
    return answer_type.model_json_schema()


def build_body(question: Question[Answer], sampling: Sampling) -> dict[str, Any]:
    """The chat completion body of ``question``, with its answer's schema as structured output."""
    body: dict[str, Any] = {
        "model": sampling.model,
        "messages": [{"role": "user", "content": list(question.content)}],
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "max_tokens": sampling.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": question.kind,
                "strict": True,
                "schema": _schema(question.answer_type),
            },
        },
    }
    return body | sampling.extras | dict(question.body)


def without_schema(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request for a server that knows no structured output: the schema goes into the text."""
    schema = body["response_format"]["json_schema"]["schema"]
    hint = {
        "type": "text",
        "text": f"Answer with one JSON object of this JSON schema, nothing else: {schema}",
    }
    message = body["messages"][0]
    bare = {key: value for key, value in body.items() if key != "response_format"}
    bare["messages"] = [{**message, "content": [*message["content"], hint]}, *body["messages"][1:]]
    return bare


def with_correction(body: Mapping[str, Any], answer: str, fault: str) -> dict[str, Any]:
    """The same request once more, with the unusable answer and what is wrong with it."""
    correction = [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"That answer can't be used: {fault}. Answer again, as asked."},
    ]
    return {**body, "messages": [*body["messages"], *correction]}


PROBE_KIND: Final = "server_probe"
"""Name of the schema, and of the kind of request in the counts."""
PROBE_TEXT: Final = "All of the above only tries whether the server takes it. Greet me in one word."
"""The last text part of each request that only tries the server."""


@dataclass(frozen=True, slots=True)
class LargeClip:
    """A clip of a prompt: a part ``video_url``."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    frame_count: int
    fps: float


@dataclass(frozen=True, slots=True)
class LargePrompt:
    """One of the largest prompts that a run will send."""

    image_sizes: Sequence[tuple[int, int]]
    """(width, height) in pixels of its pictures, in order."""
    text: str
    settings: str
    """Those that decide how large it is, for an error message."""
    clip: LargeClip | None = None

    @property
    def pixels(self) -> int:
        """Of its pictures, and of all frames of its clip."""
        frames = [self.clip.size] * self.clip.frame_count if self.clip else []
        return sum(width * height for width, height in [*self.image_sizes, *frames])


@dataclass(frozen=True, slots=True)
class ServerNeeds:
    """What a run needs of its servers."""

    sampling: Sampling
    prompts: Sequence[LargePrompt]
    """At least one; the first has the most pixels. Where clips are sent, the largest one is among them."""
    coordinate_scale: str | None = None
    """In which boxes and points are read, if any are asked for."""


def is_probe(body: Mapping[str, Any]) -> bool:
    """Whether a request only tries the server."""
    contents = [message["content"] for message in body["messages"]]
    return any(isinstance(content, list) and text_part(PROBE_TEXT) in content for content in contents)
