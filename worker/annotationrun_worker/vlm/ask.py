"""Asking a question: staged answers first, then the model; what comes back is checked before it is staged."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.staging.answers import StagedAnswer, read_answer, stage_answer
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.client import VlmClient
from annotationrun_worker.vlm.json_extraction import extract_object, quote
from annotationrun_worker.vlm.request import Answer, Question, Sampling, build_body, with_correction

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Asker:
    """Everything that a question needs to be answered."""

    client: VlmClient
    store: StagingStore
    sampling: Sampling
    model_revision: str
    affinity: str = ""
    """Questions of equal affinity, those of an episode, go to the same server."""
    attempt: int = 0
    """How often the episode was tried before. Another attempt asks with another seed, and only where no
    earlier one got a usable answer."""

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
        for attempt in range(self.attempt):
            _, key = self._request(question, attempt)
            earlier = await read_answer(self.store, key)
            if earlier is not None:
                with suppress(AnswerError):
                    return _read(question, earlier.content, parse), earlier.request
        body, key = self._request(question, self.attempt)
        staged = await read_answer(self.store, key)
        if staged is None:
            staged = await stage_answer(self.store, key, await self._usable_answer(question, body, parse))
        return _read(question, staged.content, parse), staged.request

    def _request(self, question: Question[Answer], attempt: int) -> tuple[dict[str, Any], Digest]:
        """The body to send in an attempt, and the key of its answer."""
        body = build_body(question, self.sampling.for_attempt(attempt))
        return body, digest_json({"body": digest_json(body), "model_revision": self.model_revision})

    async def _usable_answer(
        self, question: Question[Answer], body: dict[str, Any], parse: Callable[[Answer], Parsed]
    ) -> StagedAnswer:
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
                body = with_correction(body, completion.content, str(error))
                continue
            return StagedAnswer(
                request=completion.request,
                content=completion.content,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
            )
        raise AssertionError("the loop returns or raises")


def _read(question: Question[Answer], content: str, parse: Callable[[Answer], Parsed]) -> Parsed:
    try:
        answer = question.answer_type.model_validate(extract_object(content))
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'the object'}: {fault['msg']}"
            for fault in error.errors()[:5]
        )
        raise AnswerError(f"the answer does not fit its schema: {faults}") from error
    return parse(answer)
