"""Requests to OpenAI-compatible servers: bounded in flight, retried by cause, counted by kind of question.

Several servers share the episodes: all questions of one go to the same server, so that its prefix and image
caches serve them.

Connection errors, timeouts, 429 (with the server's own delay) and 5xx are retried by the ``openai`` client.
An answer cut by its token limit is asked again with twice the limit, twice at most, as far as the context
goes. A server that refuses structured output gets the schema as text from then on, unless the manifest
requires it. A 400 is that one question's failure once the server has answered others; before that, and any
other refusal, it is the run's.
"""

import asyncio
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeGuard

import openai
from openai import AsyncOpenAI

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.errors import (
    AnswerError,
    ConfigurationError,
    RequestFailedError,
    ServerNotReadyError,
)
from annotationrun_worker.vlm.json_extraction import quote
from annotationrun_worker.vlm.request import without_schema
from annotationrun_worker.vlm.responses import ChatResponse, ModelList, cut_remote, read_response
from annotationrun_worker.vlm.turns import Turns

TRANSPORT_RETRIES = 5
"""Tries after the first of one request; the client waits 0.5 s, doubling to 8 s, between them."""
LENGTH_DOUBLINGS = 2
AT_HAND: Final = 2
"""Requests that a worker should have ready, as a multiple of its bound: once in flight, once to follow."""
_FIRST_SERVER_ERROR = 500
_PASSING = frozenset({408, 409, 429})
"""HTTP statuses below 500 that say nothing against the request."""

_KEY_ADVICE = "; it wants an API key, and this version sends none: start it without one"
_ADVICE = {
    401: _KEY_ADVICE,
    403: _KEY_ADVICE,
    404: "; see that the endpoint is given with its path (often /v1)",
}
"""What to do, by HTTP status."""

_SCHEMA_COMPLAINT = re.compile(r"response_format|json_schema|structured|guided|grammar", re.IGNORECASE)

StructuredOutputs = Literal["Auto", "Required", "Never"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server answered."""

    body: Mapping[str, Any]
    """What was sent and got this answer."""
    content: str
    """Not empty, valid Unicode."""
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


def sum_usages(usages: Iterable[Mapping[str, Usage]]) -> dict[str, Usage]:
    """The counts of several processes, by kind of question."""
    total: dict[str, Usage] = {}
    for found in usages:
        for kind, usage in found.items():
            so_far = total.setdefault(kind, Usage())
            so_far.requests += usage.requests
            so_far.retries += usage.retries
            so_far.prompt_tokens += usage.prompt_tokens
            so_far.completion_tokens += usage.completion_tokens
    return total


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
        self._turns = Turns(settings.requests_in_flight)
        self._has_answered = False
        self._refusal: ConfigurationError | None = None
        self._schema_refused = settings.structured_outputs == "Never"
        self._servers = [
            AsyncOpenAI(
                base_url=base_url,
                api_key=api_key,
                timeout=settings.request_timeout_seconds,
                max_retries=TRANSPORT_RETRIES,
            )
            for base_url in settings.base_urls
        ]

    @property
    def requests_at_hand(self) -> int:
        """As many as keep the bound on requests in flight reached, while more are made ready."""
        return AT_HAND * self.settings.requests_in_flight

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.close()

    async def check_model(self) -> None:
        """See that each server is there and serves the model, before anything is asked of it.

        Raises:
            ServerNotReadyError: nobody answers at an endpoint, or not as OpenAI's API does.
            ConfigurationError: a server answers, and does not serve the model.
        """
        for server in self._servers:
            try:
                raw = await server.with_options(max_retries=1).models.with_raw_response.list()
            except openai.APIError as error:
                if _is_refusal(error):
                    raise _refused(server, error) from error
                raise ServerNotReadyError(
                    f"no model server at {_url(server)!r}: {_remote(error)}; "
                    "start it or correct the endpoint, then run again"
                ) from error
            models = read_response(raw.content, ModelList, _url(server), ServerNotReadyError).data
            served = [model.id for model in models]
            if self.settings.model not in served:
                raise ConfigurationError(
                    f"the server at {_url(server)!r} serves {', '.join(map(repr, served)) or 'nothing'}, "
                    f"not {self.settings.model!r}; set spec.model.id to the served name"
                )

    async def _check_once(self) -> None:
        """Before the first request, and only if there is one: a run with nothing to ask needs no server."""
        async with self._check:
            if not self._is_checked:
                await self.check_model()
                self._is_checked = True

    def turn(self, *, can_wait: bool) -> AbstractAsyncContextManager[None]:
        """A place among the requests in flight, had within the context: from asking until it is staged.

        What is answered and not yet staged is lost with the process, as what is not yet answered is. So the
        bound on requests in flight bounds what a kill loses.

        Args:
            can_wait: no other request builds on the answer, so those go first that others build on.
        """
        return self._turns.turn(can_wait=can_wait)

    async def complete(self, body: Mapping[str, Any], kind: str, affinity: str) -> Completion:
        """Send ``body`` and wait for its answer, within a `turn`.

        Args:
            body: the request.
            kind: of the question, for the counts.
            affinity: requests of equal ``affinity`` go to the same server.

        Raises:
            ServerNotReadyError, ConfigurationError: at the first request, see ``check_model``.
            RequestFailedError: no answer after all retries, or one that is no chat completion.
            ConfigurationError: the server refuses every request (key, model, path), or the very first.
            AnswerError: it refuses this one; or the answer is empty, no valid Unicode, or still cut after
                the token limit was doubled.
        """
        await self._check_once()
        server = self._servers[zlib.crc32(affinity.encode()) % len(self._servers)]
        body = without_schema(body) if self._schema_refused else body
        response, sent = await self._send_until_whole(server, body, self.usage[kind])
        choice, usage = response.choices[0], response.usage
        content = choice.message.content
        if not content:
            raise AnswerError(f"the answer is empty (finish_reason {choice.finish_reason!r})")
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise AnswerError(f"the answer is no valid Unicode ({error.reason}): {quote(content)}") from error
        return Completion(
            body=sent,
            content=content,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )

    async def _send_until_whole(
        self, server: AsyncOpenAI, body: Mapping[str, Any], usage: Usage
    ) -> tuple[ChatResponse, Mapping[str, Any]]:
        """The response that is not cut by its token limit, and the body that got it."""
        context_tokens = self.settings.context_tokens
        limit = min(body["max_tokens"], context_tokens)
        for doubling in range(LENGTH_DOUBLINGS + 1):
            try:
                response, body = await self._send(server, {**body, "max_tokens": limit}, usage)
            except AnswerError as error:
                if doubling == 0:
                    raise
                raise AnswerError(f"the answer is cut at {body['max_tokens']} tokens; {error}") from error
            if response.choices[0].finish_reason != "length":
                return response, body
            prompt_tokens = response.usage.prompt_tokens if response.usage else 0
            limit = min(2 * limit, context_tokens - prompt_tokens)
            if limit <= body["max_tokens"]:
                raise AnswerError(
                    f"the answer is cut at {body['max_tokens']} tokens, which fill the context "
                    f"({context_tokens}); raise spec.model.contextTokens if the server has more"
                )
        raise AnswerError(
            f"the answer is cut at {body['max_tokens']} tokens; raise spec.model.maxOutputTokens"
        )

    async def _send(
        self, server: AsyncOpenAI, body: Mapping[str, Any], usage: Usage
    ) -> tuple[ChatResponse, Mapping[str, Any]]:
        """The response, and the body that got it."""
        if self._refusal:
            raise self._refusal
        usage.requests += 1
        try:
            # extra_body goes out as it is; what is given by name the client walks through piece by piece
            raw = await server.chat.completions.with_raw_response.create(
                model=body["model"], messages=[], extra_body=body
            )
        except openai.APIError as error:
            if not self._may_mend_without_schema(error, body):
                raise self._failure(server, error) from error
            self._schema_refused = True
            return await self._send(server, without_schema(body), usage)
        usage.retries += raw.retries_taken
        response = read_response(raw.content, ChatResponse, _url(server), RequestFailedError)
        self._has_answered = True
        if response.usage:
            usage.prompt_tokens += response.usage.prompt_tokens
            usage.completion_tokens += response.usage.completion_tokens
        return response, body

    def _may_mend_without_schema(self, error: openai.APIError, body: Mapping[str, Any]) -> bool:
        return (
            isinstance(error, openai.BadRequestError)
            and self.settings.structured_outputs == "Auto"
            and "response_format" in body
            and _SCHEMA_COMPLAINT.search(str(error)) is not None
        )

    def _failure(self, server: AsyncOpenAI, error: openai.APIError) -> AnnotationRunError:
        """What a request that got no answer means: for this question, for the episode, or for the run."""
        if isinstance(error, openai.BadRequestError) and self._has_answered:
            return AnswerError(
                f"the server at {_url(server)!r} refuses this request (HTTP 400): {_remote(error)}"
            )
        if _is_refusal(error):
            self._refusal = _refused(server, error)
            return self._refusal
        return RequestFailedError(
            f"the server at {_url(server)!r} gave no answer in {TRANSPORT_RETRIES + 1} tries: "
            f"{_remote(error)}{self._patience(error)}"
        )

    def _patience(self, error: openai.APIError) -> str:
        """What to do about an answer that does not come in time."""
        if not isinstance(error, openai.APITimeoutError):
            return ""
        return (
            f"; a request may take {self.settings.request_timeout_seconds:g} s "
            "(spec.model.requestTimeoutSeconds): raise it for a slow server, or look whether it hangs"
        )


def _url(server: AsyncOpenAI) -> str:
    """As it is shown: without what may be secret."""
    return str(server.base_url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def _is_refusal(error: openai.APIError) -> TypeGuard[openai.APIStatusError]:
    """Whether the server answered, and will answer the same again."""
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code < _FIRST_SERVER_ERROR
        and error.status_code not in _PASSING
    )


def _refused(server: AsyncOpenAI, error: openai.APIStatusError) -> ConfigurationError:
    return ConfigurationError(
        f"the server at {_url(server)!r} refuses the request (HTTP {error.status_code}): {_remote(error)}"
        f"{_ADVICE.get(error.status_code, '')}"
    )


def _remote(error: openai.APIError) -> str:
    """The server's own words, or the network's."""
    text = str(error).rstrip(".")
    # the client repeats a message where OpenAI's API has it; other servers put theirs elsewhere
    is_bare = isinstance(error, openai.APIStatusError) and text == f"Error code: {error.status_code}"
    more = str((error.body if is_bare else error.__cause__) or "")
    return cut_remote(f"{text} ({more})" if more else text)
