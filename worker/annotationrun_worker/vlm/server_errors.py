"""What a server's refusals mean, and which settings help.

What a server's words say of its limits, and which settings lift them.

Words: vLLM 0.32 (``multimodal/processing/context.py``, ``multimodal/registry.py``, ``renderers/params.py``,
``entrypoints/serve/utils/api_utils.py``, ``v1/engine/input_processor.py``), older ones of vLLM, and what
OpenAI's API and llama.cpp say in their place.

What an error of a model server means, and its own words, fit to be shown.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeGuard

import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.responses import cut_remote, described, error_message, shown_url, without_key

SERVED_WITH: Final = "(spec.model.serving.args; mode External: where the server is started)"
PROMPT_SETTINGS: Final = (
    "spec.modules.plan.maxFramesPerPrompt, tileWidth and framesPerSheet, "
    "spec.modules.interjections.windowFrames"
)
"""What decides how many pictures a prompt has, and how large they are."""


@dataclass(frozen=True, slots=True)
class _Limit:
    words: re.Pattern[str]
    advice: str
    """With ``{settings}`` for those of the prompt that is too much."""


NO_CLIPS: Final = (
    "this model takes no clips as it is served: set spec.modules.plan.input to ContactSheets or Frames, or "
    "set spec.model.id to a model that takes videos and see that the server's arguments "
    f"{SERVED_WITH} allow them (vLLM: --limit-mm-per-prompt)"
)
"""What to do where parts ``video_url`` are refused."""

_LIMITS: Final[Sequence[_Limit]] = (
    _Limit(
        re.compile(
            r"at most 0 video|(does|do)(n't| not) support video|video input is not supported", re.IGNORECASE
        ),
        NO_CLIPS,
    ),
    _Limit(
        re.compile(
            r"not a multi-?modal|at most 0 image|no multi-?modal"
            r"|(does|do)(n't| not) support (image|vision|multi-?modal)|image input is not supported",
            re.IGNORECASE,
        ),
        "this model takes no pictures as it is served: set spec.model.id to a vision-language model, and see "
        f"that the server's arguments {SERVED_WITH} do not switch pictures off",
    ),
    _Limit(
        re.compile(r"encoder cache size", re.IGNORECASE),
        "a picture is too large for the server: lower {settings}, or serve the model with a larger "
        f"--max-num-batched-tokens {SERVED_WITH}",
    ),
    _Limit(
        re.compile(
            r"at most \d+ (image|video)\S* may be provided|limit.mm.per.prompt|too many images", re.IGNORECASE
        ),
        "a prompt has more pictures than the server takes: serve the model with a larger "
        f"--limit-mm-per-prompt {SERVED_WITH}, or lower {{settings}}",
    ),
    _Limit(
        re.compile(
            r"context[ _](length|window|size)|max_model_len|maximum model length|prompt is too long",
            re.IGNORECASE,
        ),
        "prompt and answer do not fit into the model's context: serve it with a larger --max-model-len "
        f"{SERVED_WITH}, or lower {{settings}}, or spec.model.maxOutputTokens",
    ),
)
"""The first whose words are found counts."""


def limit_advice(words: str, settings: str = PROMPT_SETTINGS) -> str:
    """What to do about a refusal that says ``words``; empty where they tell of no known limit.

    Args:
        words: the server's.
        settings: those that decide how large the prompt is.
    """
    for limit in _LIMITS:
        if limit.words.search(words):
            return limit.advice.format(settings=settings)
    return ""


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
