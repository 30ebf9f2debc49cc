"""What a server's words say of its limits, and which settings lift them.

Words: vLLM 0.32 (``multimodal/processing/context.py``, ``multimodal/registry.py``, ``renderers/params.py``,
``entrypoints/serve/utils/api_utils.py``, ``v1/engine/input_processor.py``), older ones of vLLM, and what
OpenAI's API and llama.cpp say in their place.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

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
