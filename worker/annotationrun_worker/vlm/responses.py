"""Responses of servers: bounded in time and size, and read with care.

The HTTP client beneath the ``openai`` client: a whole response is bounded in time and in size.

The time limits of HTTP clients are per read, so that a server that sends a byte now and then is never late;
and a client that unpacks and keeps all that comes runs out of memory. Here the whole response has a deadline
and a length, none is asked for compressed, a redirect is an answer like any other and not followed, and no
cookies are kept: a server that sets new ones each time would fill memory and requests with them.
Of an error whose text is too long, the HTTP status counts alone.

What is read of a server's responses; servers that are not quite OpenAI's send odd things with status 200.

Names and types: OpenAI's API reference, the model list and the chat completion object.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Final, NamedTuple, TypeVar

import httpx2
import openai
from openai import AsyncOpenAI
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from annotationrun_worker.errors import RequestFailedError, ServerNotReadyError
from annotationrun_worker.plain_text import plain_line
from annotationrun_worker.vlm.server import NO_API_KEY


class _Page(NamedTuple):
    """What is asked for."""

    expected: str
    max_bytes: int


_PAGES: Final[Mapping[str, _Page]] = {
    # half a million tokens, escaped as JSON
    "completions": _Page("a chat completion", 4 << 20),
    # that of a router of all providers has half a MiB
    "models": _Page("a list of models", 4 << 20),
    # vLLM's have a tenth of it
    "metrics": _Page("a page of metrics", 4 << 20),
}
"""By the end of the path."""
_OTHER_PAGE: Final = _Page("a short text", 64 << 10)
MAX_ERROR_BYTES: Final = 64 << 10
"""Of the text that comes with an error."""
_STATUS_ALONE: Final = "health"
"""The end of the path of a page of which nothing but the HTTP status is wanted."""
_HEEDED: Final = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})
"""Headers that the ``openai`` client acts on."""
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,60}")
_OWN_WORDS: Final = ("peer closed connection", "Server disconnected")
"""How those errors of the protocol begin that repeat nothing of what came."""
_UNREAD: Final = "annotationrun.unread"
"""The extension of a response that says why its body was not read."""


class UnusableResponseError(openai.APIError):
    """The server sent what is no answer of OpenAI's API, and would again; says what came."""

    def __init__(self, message: str, request: httpx2.Request) -> None:
        super().__init__(message, request, body=None)


class BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client for model servers, to be given to ``AsyncOpenAI``."""

    def __init__(self) -> None:
        """Nothing is sent yet."""
        super().__init__(
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [_forget_redirect]},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: object
    ) -> httpx2.Response:
        """The whole response to ``request``; the request's read timeout is the time for all of it.

        Raises:
            httpx2.ReadTimeout: the response is not whole in time.
            httpx2.RequestError: as of any client of httpx2.
            UnusableResponseError: it is a success, and compressed or too long.
        """
        seconds = request.extensions["timeout"]["read"]
        try:
            async with asyncio.timeout(seconds):
                response = await super().send(request, stream=True, follow_redirects=False)
                try:
                    return await _read(request, response)
                finally:
                    await response.aclose()
        except httpx2.RemoteProtocolError as error:
            raise httpx2.RemoteProtocolError(_without_remote_bytes(error), request=request) from None
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole answer within {seconds:g} s", request=request) from error


def described(response: httpx2.Response) -> str:
    """What came, without a word of it: its type and size, such as ``text/html, 612 bytes``."""
    media_type = response.headers.get("content-type") or "no known content type"
    return f"{media_type}, {response.extensions.get(_UNREAD) or f'{len(response.content)} bytes'}"


def _without_remote_bytes(error: httpx2.RemoteProtocolError) -> str:
    """What is wrong, without the line that is: who speaks no HTTP may say what is nobody's business."""
    text = str(error)
    return text if text.startswith(_OWN_WORDS) else "what came is no HTTP"


async def _forget_redirect(response: httpx2.Response) -> None:
    response.headers.pop("location", None)


async def _read(request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    """The same response with its body and those of its headers that are of use."""
    name = request.url.path.rpartition("/")[2]
    page = _PAGES.get(name, _OTHER_PAGE)
    limit = page.max_bytes if response.is_success else MAX_ERROR_BYTES
    is_wanted = name != _STATUS_ALONE or not response.is_success
    content, unread = bytearray(), ""
    if is_wanted and response.headers.get("content-encoding", "identity").lower() != "identity":
        unread = "compressed"
    elif is_wanted:
        async for piece in response.aiter_raw():
            content += piece
            if len(content) > limit:
                content, unread = bytearray(), f"more than {limit} bytes"
                break
    whole = httpx2.Response(
        response.status_code,
        headers=_useful_headers(response),
        content=bytes(content),
        request=request,
        extensions={_UNREAD: unread},
    )
    if unread and response.is_success:
        raise UnusableResponseError(
            f"HTTP {response.status_code}, {described(whole)}; expected {page.expected} of at most {limit} "
            "bytes, not compressed",
            request,
        )
    return whole


def _useful_headers(response: httpx2.Response) -> list[tuple[bytes, bytes]]:
    """Those that are heeded, and the content's type alone.

    Without its charset: JSON has none, and Python takes many a codec that unpacks for a charset.
    """
    kept = [(name, value) for name, value in response.headers.raw if name.lower() in _HEEDED]
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    known = _MEDIA_TYPE.fullmatch(media_type)
    return [*kept, (b"content-type", media_type.encode())] if known else kept


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
