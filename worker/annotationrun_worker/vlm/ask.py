"""A question asked once: by what is staged, by whoever asks it already, or of the model.

Equal work that is asked for several times at once is done once.

Asking a question: staged answers first, then the model; what comes back is checked before it is staged.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.results import StagedAnswer, read_answer, stage_answer
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.json_extraction import MAX_CHARACTERS, last_fitting, quote
from annotationrun_worker.vlm.request import Answer, Question, Sampling, build_body, with_correction

if TYPE_CHECKING:
    from annotationrun_worker.vlm.client import VlmClient

Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    waiters: int = 0


class SingleFlight(Generic[Result]):
    """Work under way in one event loop, by key."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._flights: dict[Digest, _Flight[Result]] = {}

    async def do(self, key: Digest, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What ``work`` gives or raises, or that which is under way for ``key`` already.

        Who is cancelled stops waiting and takes nobody with it; the work stops when nobody waits any more.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                del self._flights[key]
                flight.task.cancel()


Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Asker:
    """Everything that a question needs to be answered."""

    client: "VlmClient"
    store: StagingStore
    sampling: Sampling
    model_revision: str
    affinity: str = ""
    """Questions of equal affinity, those of an episode, go to the same server."""
    attempt: int = 0
    """How often the episode was tried before. Another attempt asks with another seed, and only where no
    earlier one got a usable answer."""
    on_answered: Callable[[], None] = lambda: None
    """Called when a question is done with, however it ended."""
    in_flight: SingleFlight[StagedAnswer] = field(default_factory=SingleFlight)
    """Equal questions at once are asked once; shared by the copies that ``replace`` makes."""

    async def ask(
        self, question: Question[Answer], parse: Callable[[Answer], Parsed]
    ) -> tuple[Parsed, Digest]:
        """Answer ``question`` from staging or by the model, once more if the first answer is unusable.

        ``parse`` turns the schema-checked answer into what the module wants, and raises AnswerError with
        what is wrong where it can't.

        Returns:
            What ``parse`` made of the answer, and the digest of the request that got it.

        Raises:
            AnswerError: both answers are unusable; nothing is staged.
            RequestFailedError, ConfigurationError: see ``VlmClient.complete``.
        """
        try:
            return await self._ask(question, parse)
        finally:
            self.on_answered()

    async def _ask(
        self, question: Question[Answer], parse: Callable[[Answer], Parsed]
    ) -> tuple[Parsed, Digest]:
        for attempt in range(self.attempt):
            earlier = await read_answer(self.store, self._request(question, attempt).key)
            if earlier is not None:
                with suppress(AnswerError):
                    return _read(question, earlier.content, parse), earlier.request
        request = self._request(question, self.attempt)

        async def read_or_ask() -> StagedAnswer:
            staged = await read_answer(self.store, request.key)
            if staged is not None:
                return staged
            async with self.client.turn(can_wait=question.can_wait):
                answer = await self._usable_answer(question, request, parse)
                return await stage_answer(self.store, request.key, answer)

        answer = await self.in_flight.do(request.key, read_or_ask)
        return _read(question, answer.content, parse), answer.request

    def _request(self, question: Question[Answer], attempt: int) -> "_Request":
        body = build_body(question, self.sampling.for_attempt(attempt))
        digest = digest_json(body)
        return _Request(body, digest, digest_json({"body": digest, "model_revision": self.model_revision}))

    async def _usable_answer(
        self, question: Question[Answer], request: "_Request", parse: Callable[[Answer], Parsed]
    ) -> StagedAnswer:
        body: Mapping[str, Any] = request.body
        for last in (False, True):
            completion = await self.client.complete(body, question.kind, self.affinity)
            try:
                _read(question, completion.content, parse)
            except AnswerError as error:
                if last:
                    raise AnswerError(
                        f"the model's answer to {question.kind!r} stays unusable after a correction: "
                        f"{error}; it said {quote(completion.content)}"
                    ) from error
                # no more of it than is ever looked at: it counts in the context
                body = with_correction(body, completion.content[:MAX_CHARACTERS], str(error))
                continue
            sent = completion.body
            return StagedAnswer(
                # bodies hold images: the digest that is known is not computed again
                request=request.digest if sent == request.body else digest_json(sent),
                content=completion.content,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
        raise AssertionError("the loop returns or raises")


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked in one attempt."""

    body: Mapping[str, Any]
    digest: Digest
    """Of the body."""
    key: Digest
    """Of the staged answer."""


def _read(question: Question[Answer], content: str, parse: Callable[[Answer], Parsed]) -> Parsed:
    return parse(last_fitting(content, question.answer_type))
