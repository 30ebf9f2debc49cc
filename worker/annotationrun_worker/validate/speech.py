"""Rows without style: a call of the `say` tool, or of another tool of the dataset. Pure."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from annotationrun_worker.merge.columns import LanguageRow
from annotationrun_worker.rows import SAY_TOOL_NAME


def speech_faults(row: LanguageRow, tools: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Say which rules the row breaks: (rule, message); ``tools`` are the names that info.json knows."""
    calls = [_parse_call(text) for text in row.tool_calls or ()]
    if len(calls) != 1:
        yield "tool-calls", f"a row without style has {len(calls)} tool calls, expected one"
    if row.content is not None:
        yield "content", f"a row without style has the content {repr(row.content)[:120]}, expected none"
    for call in calls:
        name = _called(call)
        if call.get("type") != "function" or name is None:
            yield "tool-calls", f"a tool call is {repr(call)[:120]}, expected type 'function' and its name"
        elif name not in tools:
            yield "tool-calls", f"the tool {name!r} is none of info.json's tools {sorted(tools)}"
        elif name == SAY_TOOL_NAME and not _said(call):
            yield "tool-calls", f"{repr(call)[:120]} says nothing, expected arguments with a text"


def _parse_call(text: str) -> dict[str, Any]:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text}
    return call if isinstance(call, dict) else {"value": call}


def _called(call: Mapping[str, Any]) -> str | None:
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _said(call: Mapping[str, Any]) -> str | None:
    arguments = call["function"].get("arguments")
    text = arguments.get("text") if isinstance(arguments, dict) else None
    return text.strip() or None if isinstance(text, str) else None


def says(row: LanguageRow) -> bool:
    """Whether a row calls the `say` tool."""
    return any(_called(_parse_call(text)) == SAY_TOOL_NAME for text in row.tool_calls or ())
