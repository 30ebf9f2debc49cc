"""Before the first question: does the server take what this run will send, and what of it does it honour?

The largest prompts of the run are sent with flat pictures of the same number and sizes, and with a JSON
schema whose answer no model says by chance. So too short a context, too many pictures and a model without
eyes show before an episode is begun, in the server's own words and tokens. A server that refuses parts of
the request that the run can do without (``uuid``, the schema) is asked again without them.

A server takes ``uuid`` if it answers about a picture that it was sent before and is only named now, and
refuses one that it never got: one that overlooks both would answer without having looked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import openai
import PIL.Image
from openai import AsyncOpenAI

from annotationrun_worker.errors import AnswerError, ConfigurationError, RequestFailedError
from annotationrun_worker.vlm.json_extraction import extract_object, quote
from annotationrun_worker.vlm.known_images import KnownImages, picture_uuid
from annotationrun_worker.vlm.limits import limit_advice
from annotationrun_worker.vlm.messages import ContentPart, image_part, text_part, to_jpeg
from annotationrun_worker.vlm.probe_request import PROBE_KIND, PROBE_TEXT, LargePrompt, ServerNeeds
from annotationrun_worker.vlm.responses import ChatResponse, shown_url
from annotationrun_worker.vlm.server_errors import is_refusal, refused, remote_words
from annotationrun_worker.vlm.server_findings import ServerFindings, StructuredOutput
from annotationrun_worker.vlm.server_pages import read_version

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
            content = await asyncio.to_thread(_content, prompt)
            response, features = await self._send(server, content, features, prompt)
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
            prompt_tokens=tokens,
            takes_uuid=features.uuid and await self._takes_uuid(server, features),
        )

    async def _send(
        self, server: AsyncOpenAI, content: Sequence[ContentPart], features: _Features, prompt: LargePrompt
    ) -> tuple[ChatResponse, _Features]:
        """The answer, and what the request could have with it."""
        for tried in _fewer(features):
            try:
                return await self._ask(server, content, tried), tried
            except openai.APIStatusError as error:
                if not is_refusal(error):
                    raise
                refusal = error
                advice = limit_advice(remote_words(server, error), prompt.settings)
                if advice:
                    raise _too_much(server, error, prompt, advice) from error
                if error.status_code not in _MAY_KNOW_LESS:
                    break
        raise refused(server, refusal) from refusal

    async def _ask(
        self, server: AsyncOpenAI, content: Sequence[ContentPart], features: _Features
    ) -> ChatResponse:
        body = self._body(content, features)
        if features.uuid:
            body, _, _ = KnownImages().wire_body(body)
        return await self.ask(server, body)

    def _body(self, content: Sequence[ContentPart], features: _Features) -> dict[str, Any]:
        sampling = self.needs.sampling
        body: dict[str, Any] = {
            "model": sampling.model,
            "messages": [{"role": "user", "content": [*content, text_part(PROBE_TEXT)]}],
            "temperature": 0.0,
            "seed": sampling.seed,
            "max_tokens": sampling.max_tokens,
        }
        if features.schema:
            schema = {"name": PROBE_KIND, "strict": True, "schema": _SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | sampling.extras

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
            await self._ask(server, [named], _Features(features.schema, uuid=False))
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


def _content(prompt: LargePrompt) -> list[ContentPart]:
    pictures = [image_part(_flat(number, size)) for number, size in enumerate(prompt.image_sizes)]
    return [*pictures, text_part(prompt.text)]


def _flat(number: int, size: tuple[int, int]) -> bytes:
    """A picture of one colour, another for each ``number``, as JPEG."""
    colour = (40 + number % 160, 40 + number // 160 % 160, 120)
    return to_jpeg(PIL.Image.new("RGB", size, colour), _JPEG_QUALITY)


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
    if not pictures:
        return f"no picture, {len(prompt.text)} characters"
    width, height = max(prompt.image_sizes)
    plural = "" if pictures == 1 else "s"
    return f"{pictures} picture{plural} of up to {width}x{height} pixels, {len(prompt.text)} characters"


def _doubtful(findings: ServerFindings, words: str) -> ServerFindings:
    return replace(findings, structured_output="Unknown", doubt=words)
