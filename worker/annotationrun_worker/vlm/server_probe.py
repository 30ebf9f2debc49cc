"""Before the first question: does the server take what this run will send, and what of it does it honour?

The largest prompts of the run are sent with flat pictures of the same number and sizes, and with a JSON
schema whose answer no model says by chance. So too short a context, too many pictures and a model without
eyes show before an episode is begun, in the server's own words and tokens. A server that refuses parts of
the request that the run can do without (``uuid``, the schema) is asked again without them. Where clips will
be sent, the longest is sent as a flat one; a server that fails at it, and takes the same request without it,
takes no clips.

A server takes ``uuid`` if it answers about a picture that it was sent before and is only named now, and
refuses one that it never got: one that overlooks both would answer without having looked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

import openai
import PIL.Image
from openai import AsyncOpenAI

from annotationrun_worker.errors import AnswerError, ConfigurationError, RequestFailedError
from annotationrun_worker.video.clips import flat_clip
from annotationrun_worker.vlm.json_extraction import extract_object, quote
from annotationrun_worker.vlm.messages import (
    ContentPart,
    clip_fields,
    image_part,
    text_part,
    to_jpeg,
    video_part,
)
from annotationrun_worker.vlm.readiness import read_version
from annotationrun_worker.vlm.request import PROBE_KIND, PROBE_TEXT, LargePrompt, ServerNeeds
from annotationrun_worker.vlm.responses import ChatResponse, shown_url
from annotationrun_worker.vlm.server import ServerFindings, StructuredOutput
from annotationrun_worker.vlm.server_errors import NO_CLIPS, is_refusal, limit_advice, refused, remote_words
from annotationrun_worker.vlm.transport import KnownImages, picture_uuid

PROBE_CODE: Final = "quartz-7-heron"
"""The one answer that the schema allows."""
_SCHEMA: Final = {
    "type": "object",
    "properties": {"code": {"type": "string", "enum": [PROBE_CODE]}},
    "required": ["code"],
    "additionalProperties": False,
}
_JPEG_QUALITY: Final = 50
_LOST_SIZE: Final = (64, 64)
"""Width and height in pixels of a picture that is named and never sent."""

Ask = Callable[[AsyncOpenAI, Mapping[str, Any]], Awaitable[ChatResponse]]
"""Sends a request; raises ``openai.APIError``, or RequestFailedError for what is no answer."""
_MAY_KNOW_LESS: Final = frozenset({400, 422})
"""HTTP statuses of a server that does not know a part of the request."""
_FAILED_WITHIN: Final = frozenset({500, 501})
"""HTTP statuses of a server that broke at the request, as some do at a video that they can't decode."""


class _Features(NamedTuple):
    """What the server may do without."""

    schema: bool
    uuid: bool


@dataclass(frozen=True, slots=True)
class ServerProbe:
    """The check of the servers of one run."""

    needs: ServerNeeds
    ask: Ask
    sends_schema: bool
    """Whether the run is to send schemas at all."""
    requires_schema: bool
    """Whether it must not do without."""

    async def look(self, server: AsyncOpenAI, max_model_len: int | None) -> ServerFindings:
        """What ``server`` takes; ``max_model_len`` as its list of models tells.

        Raises:
            ConfigurationError: it refuses what the run can't do without; names the settings.
        """
        findings = ServerFindings(
            model=self.needs.sampling.model,
            version=await read_version(server),
            max_model_len=max_model_len,
            coordinate_scale=self.needs.coordinate_scale,
        )
        try:
            return await self._try(server, findings)
        except openai.APIError as error:
            return _doubtful(findings, remote_words(server, error))
        except RequestFailedError as error:
            return _doubtful(findings, str(error))

    async def _try(self, server: AsyncOpenAI, findings: ServerFindings) -> ServerFindings:
        features = _Features(schema=self.sends_schema, uuid=True)
        structured: StructuredOutput = "NotSent"
        tokens = 0
        for number, prompt in enumerate(self.needs.prompts):
            request = await asyncio.to_thread(_Request.of, prompt)
            response, features = await self._send(server, request, features, prompt)
            counted = response.usage.prompt_tokens if response.usage else 0
            self._check_context(server, counted, findings.max_model_len, prompt)
            tokens = max(tokens, counted)
            if number == 0:
                structured = _structured(response) if features.schema else structured
                if self.sends_schema and not features.schema:
                    structured = "Refused"
                self._check_schema(server, structured, response)
        return replace(
            findings,
            structured_output=structured,
            images_per_prompt=max(len(prompt.image_sizes) for prompt in self.needs.prompts),
            clip_frames=max(prompt.clip.frame_count if prompt.clip else 0 for prompt in self.needs.prompts),
            prompt_tokens=tokens,
            takes_uuid=features.uuid and await self._takes_uuid(server, features),
        )

    async def _send(
        self, server: AsyncOpenAI, request: "_Request", features: _Features, prompt: LargePrompt
    ) -> tuple[ChatResponse, _Features]:
        """The answer, and what the request could have with it."""
        for tried in _fewer(features):
            try:
                return await self._ask(server, request, tried), tried
            except openai.APIStatusError as error:
                if not is_refusal(error):
                    if error.status_code in _FAILED_WITHIN:
                        await self._check_clip(server, error, tried, prompt)
                    raise
                refusal, refused_features = error, tried
                advice = limit_advice(remote_words(server, error), prompt.settings)
                if advice:
                    raise _too_much(server, error, prompt, advice) from error
                if error.status_code not in _MAY_KNOW_LESS:
                    break
        await self._check_clip(server, refusal, refused_features, prompt)
        raise refused(server, refusal) from refusal

    async def _check_clip(
        self, server: AsyncOpenAI, error: openai.APIStatusError, features: _Features, prompt: LargePrompt
    ) -> None:
        """See whether it is the clip that the server fails at.

        Raises:
            ConfigurationError: it takes the same request without it.
        """
        if prompt.clip is None:
            return
        try:
            await self._ask(server, _Request([text_part(prompt.text)]), features)
        except (openai.APIError, RequestFailedError):
            return
        raise _too_much(
            server, error, prompt, f"it takes the same request without the clip; {NO_CLIPS}"
        ) from error

    async def _ask(self, server: AsyncOpenAI, request: "_Request", features: _Features) -> ChatResponse:
        body = self._body(request, features)
        if features.uuid:
            body, _, _ = KnownImages().wire_body(body)
        return await self.ask(server, body)

    def _body(self, request: "_Request", features: _Features) -> dict[str, Any]:
        sampling = self.needs.sampling
        body: dict[str, Any] = {
            "model": sampling.model,
            "messages": [{"role": "user", "content": [*request.content, text_part(PROBE_TEXT)]}],
            "temperature": 0.0,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        }
        if features.schema:
            schema = {"name": PROBE_KIND, "strict": True, "schema": _SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | sampling.extras | dict(request.fields)

    async def _takes_uuid(self, server: AsyncOpenAI, features: _Features) -> bool:
        sent = next((prompt for prompt in reversed(self.needs.prompts) if prompt.image_sizes), None)
        if sent is None:
            return False
        last = len(sent.image_sizes) - 1
        known = picture_uuid(image_part(_flat(last, sent.image_sizes[last])))
        lost = picture_uuid(image_part(_flat(last + 1, _LOST_SIZE)))
        return await self._answers_about(server, known, features) and not await self._answers_about(
            server, lost, features
        )

    async def _answers_about(self, server: AsyncOpenAI, uuid: str, features: _Features) -> bool:
        named = {"type": "image_url", "image_url": None, "uuid": uuid}
        try:
            await self._ask(server, _Request([named]), _Features(features.schema, uuid=False))
        except openai.APIStatusError:
            return False
        return True

    def _check_context(
        self, server: AsyncOpenAI, counted: int, max_model_len: int | None, prompt: LargePrompt
    ) -> None:
        answer = self.needs.sampling.max_tokens
        if max_model_len is None or counted + answer <= max_model_len:
            return
        advice = limit_advice("context length", prompt.settings)
        raise ConfigurationError(
            f"the largest prompt of this run has {counted} tokens ({_described(prompt)}), and its answer may "
            f"have {answer}, but the context of {self.needs.sampling.model!r} at {shown_url(server)!r} has "
            f"{max_model_len}: {advice}"
        )

    def _check_schema(self, server: AsyncOpenAI, found: StructuredOutput, response: ChatResponse) -> None:
        if not self.requires_schema or found not in {"Ignored", "Refused"}:
            return
        said = quote(response.choices[0].message.content or "")
        raise ConfigurationError(
            f"the server at {shown_url(server)!r} does not honour JSON schemas (response_format), it said "
            f"{said}; serve the model with structured output, or set spec.model.structuredOutputs to Auto: "
            "then the schema is asked for as text"
        )


def _fewer(features: _Features) -> Iterator[_Features]:
    """``features``, and then fewer and fewer of them."""
    found = [
        features,
        features._replace(uuid=False),
        features._replace(schema=False),
        _Features(schema=False, uuid=False),
    ]
    yield from dict.fromkeys(found)


@dataclass(frozen=True, slots=True)
class _Request:
    """What differs between the requests that try a server."""

    content: Sequence[ContentPart]
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of the body, beside the content."""

    @classmethod
    def of(cls, prompt: LargePrompt) -> Self:
        """The pictures, or the clip, of ``prompt`` as flat ones of the same sizes, and its text."""
        parts = [image_part(_flat(number, size)) for number, size in enumerate(prompt.image_sizes)]
        clip = prompt.clip
        if clip is None:
            return cls([*parts, text_part(prompt.text)])
        colours = [_colour(number) for number in range(clip.frame_count)]
        parts.append(video_part(flat_clip(clip.size, colours, clip.fps)))
        return cls([*parts, text_part(prompt.text)], clip_fields(clip.fps))


def _flat(number: int, size: tuple[int, int]) -> bytes:
    """A picture of one colour, another for each ``number``, as JPEG."""
    return to_jpeg(PIL.Image.new("RGB", size, _colour(number)), _JPEG_QUALITY)


def _colour(number: int) -> tuple[int, int, int]:
    return 40 + number % 160, 40 + number // 160 % 160, 120


def _structured(response: ChatResponse) -> StructuredOutput:
    """What the server made of the schema; an answer that is cut or empty shows nothing."""
    choice = response.choices[0]
    try:
        honoured = extract_object(choice.message.content or "") == {"code": PROBE_CODE}
    except AnswerError:
        honoured = False
    if honoured:
        return "Honoured"
    return "Unknown" if choice.finish_reason == "length" or not choice.message.content else "Ignored"


def _too_much(
    server: AsyncOpenAI, error: openai.APIStatusError, prompt: LargePrompt, advice: str
) -> ConfigurationError:
    return ConfigurationError(
        f"the server at {shown_url(server)!r} refuses the largest prompt of this run ({_described(prompt)}): "
        f"{remote_words(server, error)}; {advice}"
    )


def _described(prompt: LargePrompt) -> str:
    pictures = len(prompt.image_sizes)
    if prompt.clip:
        width, height = prompt.clip.size
        return (
            f"a clip of {prompt.clip.frame_count} frames of {width}x{height} pixels, "
            f"{len(prompt.text)} characters"
        )
    if not pictures:
        return f"no picture, {len(prompt.text)} characters"
    width, height = max(prompt.image_sizes)
    plural = "" if pictures == 1 else "s"
    return f"{pictures} picture{plural} of up to {width}x{height} pixels, {len(prompt.text)} characters"


def _doubtful(findings: ServerFindings, words: str) -> ServerFindings:
    return replace(findings, structured_output="Unknown", doubt=words)
