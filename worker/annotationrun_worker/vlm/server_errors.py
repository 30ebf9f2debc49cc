"""What an error of a model server means, and its own words, fit to be shown."""

from typing import TypeGuard

import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.bounded_http import described
from annotationrun_worker.vlm.limits import limit_advice
from annotationrun_worker.vlm.responses import cut_remote, error_message, shown_url, without_key

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
    **dict.fromkeys(
        (301, 302, 303, 307, 308),
        "; redirects are not followed: give the address that answers as the endpoint "
        "(spec.model.serving.endpoints)",
    ),
}
"""What to do, by HTTP status."""


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
    words = own_words(server, error)
    advice = limit_advice(words) if error.status_code in _ABOUT_THE_REQUEST else ""
    return ConfigurationError(
        f"the server at {shown_url(server)!r} refuses the request (HTTP {error.status_code}): "
        f"{words}{advice and f'; {advice}'}{_ADVICE.get(error.status_code, '')}"
    )


def own_words(server: AsyncOpenAI, error: openai.APIStatusError) -> str:
    """The server's own message, without an API key that it repeats; else what came in place of one."""
    return (
        error_message(error.response, server)
        or f"{described(error.response)}, no error message of OpenAI's API"
    )


def remote_words(server: AsyncOpenAI, error: openai.APIError) -> str:
    """What went wrong: the HTTP status and the server's own words, or the network's words."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {own_words(server, error)}"
    text = str(error).rstrip(".")
    cause = "" if error.__cause__ is None else str(error.__cause__)
    return cut_remote(without_key(server, f"{text} ({cause})" if cause else text))
