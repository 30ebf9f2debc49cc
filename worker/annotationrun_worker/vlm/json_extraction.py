"""Getting the JSON object out of what a model says around it."""

import json
import re
from typing import Any, Final, NoReturn

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.staging.digests import canonical_json

THINKING_START: Final = "<think>"
THINKING_END: Final = "</think>"
"""Stands alone where the model's chat template opens the thinking in the prompt."""
QUOTE_LENGTH = 200
"""Characters of an answer that are quoted in an error."""

_CONTROL: Final = re.compile(r"(?<!\\)(?:\\\\)*(\\u00[01][0-9a-f]|\\b|\\f)")
"""Of JSON text: a character below U+0020 as ``json.dumps`` escapes it, but for \\t, \\n and \\r."""


def quote(text: str) -> str:
    """The start of ``text``, quoted, for an error message."""
    return repr(text[:QUOTE_LENGTH]) + ("..." if len(text) > QUOTE_LENGTH else "")


def extract_object(text: str) -> dict[str, Any]:
    """The first JSON object in ``text``, thinking and prose around it left out.

    Everything in it can be stored: text is valid Unicode, without control characters but for tabs and ends of
    lines, numbers are finite.

    Raises:
        AnswerError: there is none, or it can't be stored; quotes what the model said.
    """
    said = text.rpartition(THINKING_END)[2].partition(THINKING_START)[0]
    try:
        value = _first_object(said)
        # what the decoder takes and no file does: lone surrogates, 1e999
        if control := _CONTROL.search(canonical_json(value).decode()):
            raise AnswerError(f"the answer's text holds the character {control[1]}: {quote(said.strip())}")
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer's JSON can't be used ({error}): {quote(said.strip())}") from error
    if value is None:
        raise AnswerError(f"the answer holds no JSON object: {quote(said.strip())}")
    return value


def _first_object(said: str) -> dict[str, Any] | None:
    """The first object that the decoder takes whole; ValueError and RecursionError where it must give up."""
    # Not strict: the grammars of structured output let models write tabs and ends of lines as they are.
    decoder = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)
    start = said.find("{")
    while start != -1:
        try:
            found: tuple[dict[str, Any], int] = decoder.raw_decode(said, start)
        except json.JSONDecodeError:
            start = said.find("{", start + 1)
        else:
            return found[0]
    return None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
