"""What is read of a server's responses; servers that are not quite OpenAI's send odd things with status 200.

Names and types: OpenAI's API reference, the model list and the chat completion object.
"""

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from annotationrun_worker.errors import RequestFailedError, ServerNotReadyError

REMOTE_TEXT_LENGTH = 256
"""Characters of a server's own words that an error repeats."""


def _count_or_none(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


class Model(BaseModel):
    """One served model."""

    id: str
    max_model_len: Annotated[int | None, BeforeValidator(_count_or_none)] = None
    """Tokens of prompt and answer together; vLLM tells it."""


class ModelList(BaseModel):
    """Response to ``GET /models``."""

    data: list[Model]


class Message(BaseModel):
    """What the model said; may hold lone surrogates, which JSON can escape and no file can hold."""

    content: str | None = None


class Choice(BaseModel):
    """One answer."""

    message: Message
    finish_reason: str | None = None


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens; vLLM tells them with ``--enable-prompt-tokens-details``."""

    cached_tokens: int | None = None


class TokenUsage(BaseModel):
    """Tokens of a request and its answer; 0 where the server does not count."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that the server had in its cache."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0


class ChatResponse(BaseModel):
    """Response to ``POST /chat/completions``."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: TokenUsage | None = None


Response = TypeVar("Response", bound=BaseModel)


def read_response(
    body: bytes,
    expected: type[Response],
    url: str,
    failure: type[RequestFailedError | ServerNotReadyError],
) -> Response:
    """Read the body of a response with status 200 of the server at ``url``.

    Raises:
        RequestFailedError, ServerNotReadyError: as ``failure`` says; the body is not JSON, or of another
            shape. Quotes what came.
    """
    try:
        return expected.model_validate(json.loads(body))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        problem = f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    came = cut_remote(body[: 4 * REMOTE_TEXT_LENGTH].decode(errors="replace"))
    raise failure(
        f"the server at {url!r} sent no {expected.__name__} of OpenAI's API ({problem}) but {came!r}; "
        "see that the endpoint is an OpenAI-compatible server's, with its path (often /v1)"
    )


def cut_remote(text: str) -> str:
    """The start of a server's own words, fit to be printed and stored."""
    return text[:REMOTE_TEXT_LENGTH].encode(errors="backslashreplace").decode()
