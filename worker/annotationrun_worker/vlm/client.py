"""Requests to OpenAI-compatible servers: bounded in flight, retried by cause, counted by kind of question.

Several servers share the episodes: all questions of one go to the same server, so that its prefix and image
caches serve them.

Connection errors, timeouts, 429 (with the server's own delay) and 5xx are retried by the ``openai`` client.
An answer cut by its token limit is asked again with twice the limit, twice at most. A server that refuses
structured output gets the schema as text from then on, unless the manifest requires it.
"""

import asyncio
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from annotationrun_worker.errors import (
    AnswerError,
    ConfigurationError,
    RequestFailedError,
    ServerNotReadyError,
)
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.vlm.request import without_schema

TRANSPORT_RETRIES = 5
"""Tries after the first of one request; the client waits 0.5 s, doubling to 8 s, between them."""
LENGTH_DOUBLINGS = 2
REMOTE_TEXT_LENGTH = 256
"""Characters of a server's own words that an error repeats."""

_OPENAI_ARGUMENTS = {"model", "messages", "temperature", "seed", "max_tokens", "response_format"}
"""What the client takes by name; everything else goes into the body as it is."""
_SCHEMA_COMPLAINT = re.compile(r"response_format|json_schema|structured|guided|grammar", re.IGNORECASE)

StructuredOutputs = Literal["Auto", "Required", "Off"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server answered."""

    request: Digest
    """Digest of the body that got this answer."""
    content: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Usage:
    """Counts of one process."""

    requests: int = 0
    """Answered or given up; the same one sent again after a transport error is a retry."""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to reach the servers, and how hard to press them."""

    base_urls: Sequence[str]
    """At least one; all serve the same model."""
    model: str
    request_timeout_seconds: float
    requests_in_flight: int
    structured_outputs: StructuredOutputs
    context_tokens: int


class VlmClient:
    """The servers, with one bound on requests in flight for the whole process."""

    def __init__(self, settings: ServerSettings, api_key: str = "none") -> None:
        """Make a client; nothing is sent yet. A server without keys takes any ``api_key``."""
        self.settings = settings
        self.usage: defaultdict[str, Usage] = defaultdict(Usage)
        """By kind of question."""
        self._check = asyncio.Lock()
        self._is_checked = False
        self._in_flight = asyncio.Semaphore(settings.requests_in_flight)
        self._schema_refused = settings.structured_outputs == "Off"
        self._servers = [
            AsyncOpenAI(
                base_url=base_url,
                api_key=api_key,
                timeout=settings.request_timeout_seconds,
                max_retries=TRANSPORT_RETRIES,
            )
            for base_url in settings.base_urls
        ]

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.close()

    async def check_model(self) -> None:
        """See that each server is there and serves the model, before anything is asked of it.

        Raises:
            ServerNotReadyError: nobody answers at an endpoint.
            ConfigurationError: a server answers, and does not serve the model.
        """
        for server in self._servers:
            try:
                served = [model.id async for model in server.with_options(max_retries=1).models.list()]
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                raise ServerNotReadyError(
                    f"no model server at {_url(server)!r}: {_remote(error)}; "
                    "start it or correct the endpoint, then run again"
                ) from error
            except openai.APIStatusError as error:
                raise _refused(server, error) from error
            if self.settings.model not in served:
                raise ConfigurationError(
                    f"the server at {_url(server)!r} serves {', '.join(map(repr, served))}, not "
                    f"{self.settings.model!r}; set spec.model.id to the served name"
                )

    async def _check_once(self) -> None:
        """Before the first request, and only if there is one: a run with nothing to ask needs no server."""
        async with self._check:
            if not self._is_checked:
                await self.check_model()
                self._is_checked = True

    async def complete(self, body: Mapping[str, Any], kind: str, affinity: str) -> Completion:
        """Send ``body`` and wait for its answer.

        Args:
            body: the request.
            kind: of the question, for the counts.
            affinity: requests of equal ``affinity`` go to the same server.

        Raises:
            ServerNotReadyError, ConfigurationError: at the first request, see ``check_model``.
            RequestFailedError: no answer after all retries.
            ConfigurationError: the server refuses the request as such (key, model, size).
            AnswerError: the answer is empty, or still cut after the token limit was doubled.
        """
        await self._check_once()
        server = self._servers[zlib.crc32(affinity.encode()) % len(self._servers)]
        sent = without_schema(body) if self._schema_refused else dict(body)
        limits = [sent["max_tokens"] * 2**doubling for doubling in range(LENGTH_DOUBLINGS + 1)]
        for max_tokens in limits:
            sent["max_tokens"] = min(max_tokens, self.settings.context_tokens)
            async with self._in_flight:
                response, sent = await self._send(server, sent, self.usage[kind])
            choice = response.choices[0]
            if choice.finish_reason != "length":
                break
        else:
            raise AnswerError(
                f"the answer is cut at {sent['max_tokens']} tokens; raise spec.model.maxOutputTokens"
            )
        if not choice.message.content:
            raise AnswerError(f"the answer is empty (finish_reason {choice.finish_reason!r})")
        usage = response.usage
        return Completion(
            request=digest_json(sent),
            content=choice.message.content,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )

    async def _send(
        self, server: AsyncOpenAI, body: dict[str, Any], usage: Usage
    ) -> tuple[ChatCompletion, dict[str, Any]]:
        """The response, and the body that got it."""
        named = {key: value for key, value in body.items() if key in _OPENAI_ARGUMENTS}
        extra = {key: value for key, value in body.items() if key not in _OPENAI_ARGUMENTS}
        try:
            usage.requests += 1
            raw = await server.chat.completions.with_raw_response.create(**named, extra_body=extra or None)
            response = raw.parse()
        except openai.BadRequestError as error:
            falls_back = self.settings.structured_outputs == "Auto" and "response_format" in body
            if not falls_back or not _SCHEMA_COMPLAINT.search(str(error)):
                raise _refused(server, error) from error
            self._schema_refused = True
            return await self._send(server, without_schema(body), usage)
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            raise RequestFailedError(
                f"the server at {_url(server)!r} gave no answer in {TRANSPORT_RETRIES + 1} tries: "
                f"{_remote(error)}"
            ) from error
        except openai.APIStatusError as error:
            raise _refused(server, error) from error
        usage.retries += raw.retries_taken
        if response.usage:
            usage.prompt_tokens += response.usage.prompt_tokens
            usage.completion_tokens += response.usage.completion_tokens
        return response, body


def _url(server: AsyncOpenAI) -> str:
    return str(server.base_url).rstrip("/")


def _refused(server: AsyncOpenAI, error: openai.APIStatusError) -> ConfigurationError:
    return ConfigurationError(
        f"the server at {_url(server)!r} refuses the request (HTTP {error.status_code}): {_remote(error)}"
    )


def _remote(error: openai.OpenAIError) -> str:
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"{error}{cause}"[:REMOTE_TEXT_LENGTH]
