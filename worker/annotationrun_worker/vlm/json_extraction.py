"""Getting the JSON object out of what a model says around it."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.staging.digests import canonical_json

Answer = TypeVar("Answer", bound=BaseModel)

THINKING: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis", "<|channel|>final"),
)
"""The marks that models put around what they think: Qwen and DeepSeek, Seed-OSS, Magistral, Kimi-VL, gpt-oss.

The end stands alone where the model's chat template opens the thinking in the prompt.
"""
QUOTE_LENGTH = 200
"""Characters of an answer that are quoted in an error."""
MAX_CHARACTERS: Final = 1 << 18
"""Of an answer without its thinking: a hundred times the longest list of subtasks."""
MAX_OBJECTS: Final = 256
"""That an answer may hold, broken ones included: a model that drafts stays far below."""
_MAX_FAULTS: Final = 5
"""Of one object that are told."""

_CONTROL: Final = re.compile(r"(?<!\\)(?:\\\\)*(\\u00[01][0-9a-f]|\\b|\\f)")
"""Of JSON text: a character below U+0020 as ``json.dumps`` escapes it, but for \\t, \\n and \\r."""
_BEGIN: Final = re.compile(r"""\{(?=\s*["'}/#])|\[(?=\s*\{)""")
"""Where an object may begin, or a list of objects; other brackets are prose."""
_STRUCTURE: Final = re.compile(r"""\\.|["{}\[\]]""", re.DOTALL)


def quote(text: str) -> str:
    """The start of ``text``, quoted, for an error message."""
    return repr(text[:QUOTE_LENGTH]) + ("..." if len(text) > QUOTE_LENGTH else "")


def last_fitting(text: str, answer_type: type[Answer]) -> Answer:
    """The last JSON object in ``text`` that fits the schema: see ``answer_objects`` and ``check_storable``.

    Raises:
        AnswerError: none does, or it can't be stored; says what is wrong.
    """
    refused: ValidationError | None = None
    values = answer_objects(text)
    for value in reversed(values):
        try:
            answer = answer_type.model_validate(value)
        except ValidationError as error:
            refused = refused or error
            continue
        check_storable(value, text)
        return answer
    check_storable(values[-1], text)  # which says more than the schema does
    assert refused is not None, "there is an object"  # noqa: S101
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc']))[:QUOTE_LENGTH] or 'the object'}: {fault['msg']}"
        for fault in refused.errors(include_url=False, include_input=False)[:_MAX_FAULTS]
    )
    raise AnswerError(f"the answer does not fit its schema: {faults}") from refused


def extract_object(text: str) -> dict[str, Any]:
    """The last JSON object in ``text``: see ``answer_objects``; it can be stored, see ``check_storable``.

    Raises:
        AnswerError: there is none, or it can't be stored; quotes what the model said.
    """
    value = answer_objects(text)[-1]
    check_storable(value, text)
    return value


def answer_objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in ``text``, first to last; thinking and prose around them is left out.

    Objects within others, or within one that is broken, are not among them. A model may draft before it
    answers: so a broken object counts as the answer if no whole one follows.

    Raises:
        AnswerError: there is none, the last one is broken, or the answer is too long, or holds too many, to
            be one; quotes what the model said.
    """
    said = without_thinking(text).strip()
    if len(said) > MAX_CHARACTERS:
        raise AnswerError(
            f"the answer's JSON can't be used ({len(said)} characters, more than {MAX_CHARACTERS}): "
            f"{quote(said)}"
        )
    found: list[dict[str, Any]] = []
    fault: Callable[[], str] | None = None
    try:
        for value, broken in _objects_in(said):
            fault = broken
            if value is not None:
                found.append(value)
    except RecursionError as error:
        raise AnswerError(f"the answer's JSON can't be used ({error}): {quote(said)}") from error
    if fault is not None:
        raise AnswerError(f"{fault()}: {quote(said)}")
    if not found:
        raise AnswerError(f"the answer holds no JSON object: {quote(said)}")
    return found


def without_thinking(text: str) -> str:
    """What was said after the last mark that ends thinking, and before one that begins it."""
    for start, end in THINKING:
        text = text.rpartition(end)[2].partition(start)[0]
    return text


def check_storable(value: Mapping[str, Any], text: str) -> None:
    """See that the object can be stored: valid Unicode, no control characters but tabs and ends of lines.

    Numbers have to be finite. ``text`` is what it stood in, for the error.

    Raises:
        AnswerError: it can't be.
    """
    try:
        # what the decoder takes and no file does: lone surrogates, 1e999
        control = _CONTROL.search(canonical_json(value).decode())
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer's JSON can't be used ({error}): {quote(text.strip())}") from error
    if control:
        raise AnswerError(f"the answer's text holds the character {control[1]}: {quote(text.strip())}")


def _objects_in(said: str) -> Iterator[tuple[dict[str, Any] | None, Callable[[], str] | None]]:
    """Each outermost object, or what says what is wrong with it.

    Raises:
        AnswerError: there are too many; each costs a look at all that stands before it.
    """
    # Not strict: the grammars of structured output let models write tabs and ends of lines as they are.
    decoder = json.JSONDecoder(strict=False, parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    start = tried = 0
    while begin := _BEGIN.search(said, start):
        tried += 1
        if tried > MAX_OBJECTS:
            raise AnswerError(
                f"the answer holds more than {MAX_OBJECTS} JSON objects, expected one: {quote(said)}"
            )
        place = begin.start()
        try:
            value, start = decoder.raw_decode(said, place)
        except ValueError as error:
            start, is_closed = _end_of_broken(said, place)
            if begin[0][0] == "{":
                yield None, partial(_fault, said, error, is_cut_off=not is_closed)
            continue
        if isinstance(value, dict):
            yield value, None
        elif any(isinstance(item, dict) for item in value):
            yield (value[0], None) if len(value) == 1 else (None, partial(_list_fault, len(value)))


def _list_fault(length: int) -> str:
    return f"the answer is a list of {length} objects, expected one object"


def _end_of_broken(said: str, place: int) -> tuple[int, bool]:
    """Where the brackets that open at ``place`` are closed again, and whether they are; else the end."""
    depth, is_text = 0, False
    for token in _STRUCTURE.finditer(said, place):
        mark = token[0]
        if mark == '"':
            is_text = not is_text
        elif not is_text and len(mark) == 1:
            depth += 1 if mark in "{[" else -1
            if depth == 0:
                return token.end(), True
    return len(said), False


def _fault(said: str, error: ValueError, *, is_cut_off: bool) -> str:
    """What is wrong with a broken object, in the words of who wrote it."""
    if is_cut_off:
        return "the answer holds no JSON object that is complete"
    if not isinstance(error, json.JSONDecodeError):
        return f"the answer's JSON can't be used ({error})"
    before, after = said[: error.pos].rstrip(), said[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in {"}", "]"}:
        reason = "a comma stands before a closing bracket"
    elif after.startswith(("//", "/*", "#")):
        reason = "JSON has no comments"
    elif after.startswith("'"):
        reason = "keys and texts have to stand in double quotes"
    else:
        reason = f"{error.msg} at {quote(said[error.pos : error.pos + 20])}"
    return f"the answer's JSON can't be used ({reason})"


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"the key {quote(twice)} is there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
