"""Getting the JSON object out of what a model says around it."""

import json
import re

from annotationrun_worker.errors import AnswerError

_THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
QUOTE_LENGTH = 200
"""Characters of an answer that are quoted in an error."""


def quote(text: str) -> str:
    """The start of ``text``, quoted, for an error message."""
    return repr(text[:QUOTE_LENGTH]) + ("..." if len(text) > QUOTE_LENGTH else "")


def extract_object(text: str) -> dict[str, object]:
    """The first JSON object in ``text``, thinking and prose around it left out.

    Raises:
        AnswerError: there is none; quotes what the model said.
    """
    said = _THINKING.sub("", text)
    decoder = json.JSONDecoder()
    start = said.find("{")
    while start != -1:
        try:
            value, _ = decoder.raw_decode(said, start)
        except json.JSONDecodeError:
            start = said.find("{", start + 1)
            continue
        if isinstance(value, dict):
            return value
        start = said.find("{", start + 1)
    raise AnswerError(f"the answer holds no JSON object: {quote(said.strip())}")
