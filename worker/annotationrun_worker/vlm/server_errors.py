"""What an error of a model server means, and its own words, fit to be shown."""

from typing import TypeGuard

import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.limits import limit_advice
from annotationrun_worker.vlm.responses import cut_remote
from annotationrun_worker.vlm.server_settings import NO_API_KEY

_FIRST_SERVER_ERROR = 500
_PASSING = frozenset({408, 409, 429})
"""HTTP statuses below 500 that say nothing against the request."""
_NOBODY_THERE = frozenset({502, 503, 504})
"""HTTP statuses of a server that is starting or ending, and of a proxy before one that is gone."""

_ABOUT_THE_REQUEST = frozenset({400, 413, 422})
"""HTTP statuses whose words may tell of a limit."""

_KEY_ADVICE = (
    "; it wants another API key: set ANNOTATIONRUN_API_KEY (a cluster: spec.model.serving.apiKeySecretRef)"
)
_ADVICE = {
    401: _KEY_ADVICE,
    403: _KEY_ADVICE,
    404: "; see that the endpoint is given with its path (often /v1)",
}
"""What to do, by HTTP status."""


def shown_url(server: AsyncOpenAI) -> str:
    """The base URL as it is shown: without what may be secret."""
    return str(server.base_url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")


def is_refusal(error: openai.APIError) -> TypeGuard[openai.APIStatusError]:
    """Whether the server answered, and will answer the same again."""
    return (
        isinstance(error, openai.APIStatusError)
        and error.status_code < _FIRST_SERVER_ERROR
        and error.status_code not in _PASSING
    )


def is_broken_connection(error: openai.APIError) -> bool:
    """Whether there was no connection, or it broke; a server that is too slow is another matter."""
    return isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)


def is_away(error: openai.APIError) -> bool:
    """Whether nobody is there to answer, who may come back."""
    return is_broken_connection(error) or (
        isinstance(error, openai.APIStatusError) and error.status_code in _NOBODY_THERE
    )


def refused(server: AsyncOpenAI, error: openai.APIStatusError) -> ConfigurationError:
    """What ends the run: the server refuses whatever is asked."""
    words = remote_words(server, error)
    advice = limit_advice(words) if error.status_code in _ABOUT_THE_REQUEST else ""
    return ConfigurationError(
        f"the server at {shown_url(server)!r} refuses the request (HTTP {error.status_code}): "
        f"{words}{advice and f'; {advice}'}{_ADVICE.get(error.status_code, '')}"
    )


def remote_words(server: AsyncOpenAI, error: openai.APIError) -> str:
    """The server's own words, or the network's; an API key that it repeats is left out."""
    text = str(error).rstrip(".")
    # the client repeats a message where OpenAI's API has it; other servers put theirs elsewhere
    is_bare = isinstance(error, openai.APIStatusError) and text == f"Error code: {error.status_code}"
    more = str((error.body if is_bare else error.__cause__) or "")
    words = f"{text} ({more})" if more else text
    return cut_remote(words if server.api_key == NO_API_KEY else words.replace(server.api_key, "..."))
