"""The HTTP client beneath the ``openai`` client: a whole response is bounded in time and in size.

The time limits of HTTP clients are per read, so that a server that sends a byte now and then is never late;
and a client that unpacks and keeps all that comes runs out of memory. Here the whole response has a deadline
and a length, none is asked for compressed, a redirect is an answer like any other and not followed, and no
cookies are kept: a server that sets new ones each time would fill memory and requests with them.
Of an error whose text is too long, the HTTP status counts alone.
"""

import asyncio
import re
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, NamedTuple

import httpx2
import openai


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
