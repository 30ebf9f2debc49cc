"""The client of the model servers, and the order in which requests get their turn.

A bound on requests in flight that lets those go first on whose answers others wait.

Requests to OpenAI-compatible servers: bounded in flight, retried by cause, counted by kind of question.

Several servers share the episodes: all questions of one go to the same server, so that its prefix and image
caches serve them.

Before the first question each server is tried with the largest prompts of the run (``server_probe``), and
what it does not take is done without, or ends the run.

Connection errors, timeouts, 429 (with the server's own delay) and 5xx are retried by the ``openai`` client. A
server that may take its time to start is waited for beyond that, whenever it is away (``readiness``).
An answer cut by its token limit is asked again with twice the limit, twice at most, as far as the context
goes. A server that refuses structured output gets the schema as text from then on, unless the manifest
requires it. A 400 is that one question's failure once the server has answered others; before that, and any
other refusal, it is the run's.
"""

import asyncio
import heapq
import itertools
import re
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import openai
from openai import AsyncOpenAI

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.errors import (
    AnswerError,
    ConfigurationError,
    RequestFailedError,
)
from annotationrun_worker.vlm.json_extraction import quote
from annotationrun_worker.vlm.readiness import Readiness, read_server_counts
from annotationrun_worker.vlm.request import PROBE_KIND, ServerNeeds, without_schema
from annotationrun_worker.vlm.responses import (
    ENDPOINT_ADVICE,
    BoundedHttpClient,
    ChatResponse,
    UnusableResponseError,
    cut_remote,
    read_response,
    shown_url,
)
from annotationrun_worker.vlm.server import (
    AT_HAND,
    NO_API_KEY,
    ServerCounts,
    ServerFindings,
    ServerSettings,
    Usage,
    in_common,
)
from annotationrun_worker.vlm.server_errors import (
    is_refusal,
    limit_advice,
    own_words,
    refused,
    remote_words,
)
from annotationrun_worker.vlm.server_probe import ServerProbe
from annotationrun_worker.vlm.transport import MediaFolder, Transport


class Turns:
    """So many at once; who waits comes in order, but those that can wait come last."""

    def __init__(self, at_once: int) -> None:
        """Nobody has a turn yet."""
        self._free = at_once
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._numbers: Iterator[int] = itertools.count()

    @asynccontextmanager
    async def turn(self, *, can_wait: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it within the context."""
        if self._free:
            self._free -= 1
        else:
            mine = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (can_wait, next(self._numbers), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # the turn came just then
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return
        self._free += 1


TRANSPORT_RETRIES = 5
"""Tries after the first of one request; the client waits 0.5 s, doubling to 8 s, between them."""
PROBE_RETRIES: Final = 2
"""The same, of requests that only try a server: the run goes on without their answer."""
LENGTH_DOUBLINGS = 2
_SCHEMA_COMPLAINT = re.compile(r"response_format|json_schema|structured|guided|grammar", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Completion:
    """What the server answered."""

    body: Mapping[str, Any]
    """What was sent and got this answer."""
    content: str
    """Not empty, valid Unicode."""
    prompt_tokens: int
    completion_tokens: int


class VlmClient:
    """The servers, with one bound on requests in flight for the whole process."""

    def __init__(
        self,
        settings: ServerSettings,
        api_key: str = NO_API_KEY,
        say: Callable[[str], None] = lambda text: None,
        needs: Callable[[], ServerNeeds] | None = None,
        found: Callable[[ServerFindings], None] = lambda findings: None,
    ) -> None:
        """Make a client; nothing is sent yet.

        Args:
            settings: of the servers.
            api_key: a server without keys takes any.
            say: told when a server is waited for.
            needs: what is tried at each server before the first question; ``None``: nothing.
            found: told what came of that, and again what ``read_server_counts`` adds to it.

        Raises:
            ConfigurationError: the folder for pictures is not there.
        """
        self.settings = settings
        self.findings: ServerFindings | None = None
        """``None``: the servers were not tried, as there was nothing to ask."""
        self.usage: defaultdict[str, Usage] = defaultdict(Usage)
        """By kind of question."""
        self._turns = Turns(settings.requests_in_flight)
        self._has_answered = False
        self._refusal: ConfigurationError | None = None
        self._schema_refused = settings.structured_outputs == "Never"
        self._context_tokens = settings.context_tokens
        self._needs = needs
        self._found = found
        self._counts_before: ServerCounts | None = None
        self._servers = [
            AsyncOpenAI(
                base_url=base_url,
                api_key=api_key,
                timeout=settings.request_timeout_seconds,
                max_retries=TRANSPORT_RETRIES,
                http_client=BoundedHttpClient(),
            )
            for base_url in settings.base_urls
        ]
        self._readiness = Readiness(self._servers, settings, say, self._try_servers)
        media = None if settings.media_folder is None else MediaFolder(settings.media_folder)
        self._transport = Transport(self._readiness, settings.start_timeout_seconds, media)

    @property
    def requests_at_hand(self) -> int:
        """As many as keep the bound on requests in flight reached, while more are made ready."""
        return AT_HAND * self.settings.requests_in_flight

    async def close(self) -> None:
        """Close the connections."""
        await self._readiness.close()
        for server in self._servers:
            await server.close()

    async def check_model(self) -> None:
        """See that each server is there and serves the model; see ``Readiness.check``."""
        await self._readiness.check()

    async def is_ready(self, within_seconds: float) -> bool:
        """Whether the servers come to be there within so many seconds; true where they may not take any.

        Raises:
            ServerNotReadyError, ConfigurationError: see ``check_model``.
        """
        return await self._readiness.has_started(within_seconds)

    @property
    def images_left_out(self) -> int:
        """Pictures that were named in place of being sent, as the server had them."""
        return self._transport.images_left_out

    async def read_server_counts(self) -> None:
        """Put into the findings what the servers' caches gave since the servers were tried."""
        if self.findings is None or self._counts_before is None:
            return
        now = await self._server_counts()
        if now is not None:
            self.findings = replace(self.findings, counts=now.since(self._counts_before))
            self._found(self.findings)

    async def _server_counts(self) -> ServerCounts | None:
        """Of all servers that tell them; ``None`` where none does."""
        found = await asyncio.gather(*map(read_server_counts, self._servers))
        told = [counts for counts in found if counts is not None]
        return sum(told[1:], told[0]) if told else None

    async def _try_servers(self) -> None:
        if self._needs is None:
            return
        output = self.settings.structured_outputs
        probe = ServerProbe(
            needs=await asyncio.to_thread(self._needs),
            ask=self._ask_probe,
            sends_schema=output != "Never",
            requires_schema=output == "Required",
        )
        lengths = self._readiness.max_model_lens
        found = await asyncio.gather(
            *(probe.look(server, lengths.get(shown_url(server))) for server in self._servers)
        )
        self._counts_before = await self._server_counts()
        findings = self.findings = in_common(found)
        self._schema_refused |= findings.structured_output in {"Ignored", "Refused"}
        if findings.max_model_len is not None:
            self._context_tokens = min(self._context_tokens, findings.max_model_len)
        if findings.takes_uuid:
            self._transport.name_known_images(self._servers)
        self._found(findings)

    async def _ask_probe(self, server: AsyncOpenAI, body: Mapping[str, Any]) -> ChatResponse:
        asked = Usage()
        try:
            return await self._counted(server.with_options(max_retries=PROBE_RETRIES), body, asked)
        finally:
            asked.failed = 0  # what is refused shows what it was to show
            self.usage[PROBE_KIND].add(asked)

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
        await self._readiness.started()  # here, as a run with nothing to ask needs no server
        server = self._servers[zlib.crc32(affinity.encode()) % len(self._servers)]
        body = without_schema(body) if self._schema_refused else body
        response, sent = await self._send_until_whole(server, body, self.usage[kind])
        choice, usage = response.choices[0], response.usage
        content = choice.message.content
        if not content:
            reason = choice.finish_reason and cut_remote(choice.finish_reason)
            raise AnswerError(f"the answer is empty (finish_reason {reason!r})")
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
        context_tokens = self._context_tokens
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
        try:
            response = await self._counted(server, body, usage)
        except openai.APIError as error:
            if not self._may_mend_without_schema(error, body):
                raise self._failure(server, error) from error
            self._schema_refused = True
            return await self._send(server, without_schema(body), usage)
        self._has_answered = True
        return response, body

    async def _counted(self, server: AsyncOpenAI, body: Mapping[str, Any], usage: Usage) -> ChatResponse:
        """Send ``body``; raises ``openai.APIError``, or RequestFailedError for what is no completion."""
        try:
            reply, retries = await self._transport.post(server, body)
            usage.retries += retries
            response = read_response(reply, ChatResponse, server, RequestFailedError)
        except (openai.APIError, RequestFailedError):
            usage.failed += 1
            raise
        usage.answered += 1
        if response.usage:
            usage.prompt_tokens += response.usage.prompt_tokens
            usage.completion_tokens += response.usage.completion_tokens
            usage.cached_tokens += response.usage.cached_tokens
        return response

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
            words = own_words(server, error)
            advice = limit_advice(words)
            return AnswerError(
                f"the server at {shown_url(server)!r} refuses this request (HTTP 400): {words}"
                f"{advice and f'; {advice}'}"
            )
        if isinstance(error, UnusableResponseError):
            return RequestFailedError(f"the server at {shown_url(server)!r} sent {error}; {ENDPOINT_ADVICE}")
        if is_refusal(error):
            self._refusal = refused(server, error)
            return self._refusal
        return RequestFailedError(
            f"the server at {shown_url(server)!r} gave no answer in {TRANSPORT_RETRIES + 1} tries: "
            f"{remote_words(server, error)}{self._patience(error)}"
        )

    def _patience(self, error: openai.APIError) -> str:
        """What to do about an answer that does not come in time."""
        if not isinstance(error, openai.APITimeoutError):
            return ""
        return (
            f"; a request may take {self.settings.request_timeout_seconds:g} s "
            "(spec.model.requestTimeoutSeconds): raise it for a slow server, or look whether it hangs"
        )
