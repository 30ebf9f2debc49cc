"""What is read of a server's responses; servers that are not quite OpenAI's send odd things with status 200.

Names and types: OpenAI's API reference, the model list and the chat completion object.
"""

import json
from typing import Annotated, Final, TypeVar

import httpx2
from openai import AsyncOpenAI
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from annotationrun_worker.errors import RequestFailedError, ServerNotReadyError
from annotationrun_worker.plain_text import plain_line
from annotationrun_worker.vlm.bounded_http import described
from annotationrun_worker.vlm.server_settings import NO_API_KEY

REMOTE_TEXT_LENGTH = 256
"""Characters of a server's own words that an error repeats."""
ENDPOINT_ADVICE: Final = "see that the endpoint is an OpenAI-compatible server's, with its path (often /v1)"
"""What to do about an answer that is none of OpenAI's API."""


MAX_TOKENS: Final = 10**9
"""That a server may count in one request, or have room for; what is beyond is no count."""
_MAX_MODELS: Final = 10_000
"""That are looked at in a list of them."""


def _count_or_none(value: object) -> int | None:
    """A number of things from 1 up, whole though it be written as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value <= MAX_TOKENS and value == int(value) else None


def _count_or_zero(value: object) -> int:
    return _count_or_none(value) or 0


def _object_or_none(value: object) -> object:
    return value if isinstance(value, dict) else None


def _at_most(length: int) -> BeforeValidator:
    """Of a list so many parts: each that is odd would cost an error of its own."""
    return BeforeValidator(lambda value: value[:length] if isinstance(value, list) else value)


Tokens = Annotated[int, BeforeValidator(_count_or_zero)]
"""0 where the server says anything but a number that can be one."""


class Model(BaseModel):
    """One served model."""

    id: str
    max_model_len: Annotated[int | None, BeforeValidator(_count_or_none)] = None
    """Tokens of prompt and answer together; vLLM tells it."""


class ModelList(BaseModel):
    """Response to ``GET /models``."""

    data: Annotated[list[Model], _at_most(_MAX_MODELS)]


class Message(BaseModel):
    """What the model said; may hold lone surrogates, which JSON can escape and no file can hold."""

    content: str | None = None


class Choice(BaseModel):
    """One answer."""

    message: Message
    finish_reason: str | None = None


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens; vLLM tells them with ``--enable-prompt-tokens-details``."""

    cached_tokens: Tokens = 0


class TokenUsage(BaseModel):
    """Tokens of a request and its answer; 0 where the server does not count."""

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    prompt_tokens_details: Annotated[PromptTokensDetails | None, BeforeValidator(_object_or_none)] = None

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, those that the server had in its cache."""
        cached = self.prompt_tokens_details.cached_tokens if self.prompt_tokens_details else 0
        return min(cached, self.prompt_tokens)


class ChatResponse(BaseModel):
    """Response to ``POST /chat/completions``."""

    choices: Annotated[list[Choice], Field(min_length=1), _at_most(1)]
    usage: Annotated[TokenUsage | None, BeforeValidator(_object_or_none)] = None


Response = TypeVar("Response", bound=BaseModel)


def read_response(
    response: httpx2.Response,
    expected: type[Response],
    server: AsyncOpenAI,
    failure: type[RequestFailedError | ServerNotReadyError],
) -> Response:
    """Read what ``server`` sent as a success.

    Raises:
        RequestFailedError, ServerNotReadyError: as ``failure`` says; the body is not JSON, or of another
            shape. Says what came, and repeats nothing of it but the message of an error of OpenAI's API.
    """
    try:
        return expected.model_validate(json.loads(response.content))
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        problem = f"{'.'.join(map(str, fault['loc'])) or 'the body'}: {fault['msg']}"
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    came = f"HTTP {response.status_code}, {described(response)}"
    words = error_message(response, server)
    raise failure(
        f"the server at {shown_url(server)!r} sent no {expected.__name__} of OpenAI's API ({problem}) but "
        f"{came}{words and f', an error: {words}'}; {ENDPOINT_ADVICE}"
    )


def error_message(response: httpx2.Response, server: AsyncOpenAI) -> str:
    """The message of an error as servers of OpenAI's API write it, fit to be shown; empty: it is none.

    An API key that the server repeats is left out.

    That is ``{"error": {"message": ...}}``, ``{"error": ...}``, vLLM's older ``{"object": "error",
    "message": ...}``, and FastAPI's ``{"detail": ...}``. Any other body is somebody else's, and not ours to
    repeat: the endpoint may be the address of a page that is nobody's business.
    """
    try:
        value = json.loads(response.content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    error = value.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    if said is None and value.get("object") == "error":
        said = value.get("message")
    if said is None:
        said = _detail(value.get("detail"))
    return cut_remote(without_key(server, said)) if isinstance(said, str) else ""


def _detail(value: object) -> object:
    """FastAPI's: a text, or a list of what is wrong with the request."""
    first = value[0] if isinstance(value, list) and value else value
    return first.get("msg") if isinstance(first, dict) else first


def without_key(server: AsyncOpenAI, words: str) -> str:
    """``words`` without the API key that the server was sent."""
    return words if server.api_key == NO_API_KEY else words.replace(server.api_key, "...")


def shown_url(server: AsyncOpenAI) -> str:
    """The base URL as it is shown: without what may be secret."""
    return str(server.base_url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def cut_remote(text: str) -> str:
    """The start of a server's own words, fit to be printed and stored."""
    return plain_line(text[:REMOTE_TEXT_LENGTH])[:REMOTE_TEXT_LENGTH]
