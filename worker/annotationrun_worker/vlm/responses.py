"""What a server's responses hold, as far as it is read: servers that are not quite OpenAI's answer odd things.

Fields and types: OpenAI's API reference (chat completion object, models list), as vLLM 0.11 serves them.
"""

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

REMOTE_TEXT_LENGTH = 256
"""Characters of a server's own words that an error repeats."""


class UnexpectedResponseError(ValueError):
    """A response of status 200 that is not what was asked for; says what came instead."""


class Model(BaseModel):
    """One served model."""

    id: str


class ModelList(BaseModel):
    """Response to ``GET /models``."""

    data: list[Model]


class Message(BaseModel):
    """What the model said; the text may hold lone surrogates, which JSON can escape and UTF-8 lacks."""

    content: str | None = None


class Choice(BaseModel):
    """One answer."""

    message: Message
    finish_reason: str | None = None


class TokenUsage(BaseModel):
    """Tokens of a request and its answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatResponse(BaseModel):
    """Response to ``POST /chat/completions``."""

    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: TokenUsage | None = None


Response = TypeVar("Response", bound=BaseModel)


def read_response(content: bytes, expected: type[Response]) -> Response:
    """Read the body of a response.

    Raises:
        UnexpectedResponseError: it is not JSON, or not of that shape; quotes what came.
    """
    try:
        return expected.model_validate(json.loads(content))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the body"
        problem = f"{where}: {fault['msg']}"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    said = cut(content[: 4 * REMOTE_TEXT_LENGTH].decode(errors="replace"))
    raise UnexpectedResponseError(f"{problem}; it sent {said!r}")


def cut(text: str) -> str:
    """The start of a server's own words, safe to print and to store."""
    return text[:REMOTE_TEXT_LENGTH].encode(errors="backslashreplace").decode()
