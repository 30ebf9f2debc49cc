"""The edits of ``meta/``: as JSON, so that every key this version does not know survives. Pure."""

import json
import reprlib
from typing import Any, Final

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.columns import LANGUAGE_COLUMNS, REPLACED_COLUMNS
from annotationrun_worker.rows import SAY_TOOL_NAME, say_tool

LANGUAGE_FEATURE: Final[dict[str, Any]] = {"dtype": "language", "shape": [1], "names": None}
"""The entry of both columns in ``features`` of ``info.json``."""


def edit_info(text: bytes) -> bytes:
    """Edit ``meta/info.json``: the language features come, the replaced ones go, the `say` tool is there.

    Raises:
        DatasetError: not a JSON object, or ``features`` or ``tools`` is not of its type.
    """
    info = _parse(text, "meta/info.json")
    features = info.get("features")
    if not isinstance(features, dict):
        raise DatasetError(f"meta/info.json: features is {type(features).__name__}, expected an object")
    for name in (*REPLACED_COLUMNS, *LANGUAGE_COLUMNS):
        features.pop(name, None)
    features.update({name: dict(LANGUAGE_FEATURE) for name in LANGUAGE_COLUMNS})
    tools = info.get("tools")
    if tools is None:
        tools = []
    if not isinstance(tools, list):
        raise DatasetError(
            f"meta/info.json: tools is {reprlib.repr(tools)}, expected a list of function schemas"
        )
    if SAY_TOOL_NAME not in map(tool_name, tools):
        tools = [*tools, say_tool()]
    info["tools"] = tools
    return _write(info)


def drop_from_info(text: bytes) -> bytes:
    """Undo ``edit_info``: the language features go, and the `say` tool if it is the one that we added.

    Raises:
        DatasetError: not a JSON object, or ``features`` is not of its type.
    """
    info = _parse(text, "meta/info.json")
    features = info.get("features")
    if not isinstance(features, dict):
        raise DatasetError(f"meta/info.json: features is {type(features).__name__}, expected an object")
    for name in (*REPLACED_COLUMNS, *LANGUAGE_COLUMNS):
        features.pop(name, None)
    tools = info.get("tools")
    if isinstance(tools, list) and say_tool() in tools:
        info["tools"] = [tool for tool in tools if tool != say_tool()]
        if not info["tools"]:
            del info["tools"]
    return _write(info)


def edit_stats(text: bytes) -> bytes:
    """Drop the replaced columns from ``meta/stats.json``: LeRobot's collate fails on them.

    A file without them comes back as it is, byte for byte.

    Raises:
        DatasetError: not a JSON object.
    """
    stats = _parse(text, "meta/stats.json")
    if not any(name in stats for name in REPLACED_COLUMNS):
        return text
    return _write({name: values for name, values in stats.items() if name not in REPLACED_COLUMNS})


def tool_name(tool: object) -> str | None:
    """The name in a function schema; ``None`` if it has none."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DatasetError(f"{where} holds {type(value).__name__}, expected a JSON object")
    return value


def _write(value: dict[str, Any]) -> bytes:
    # LeRobot's own form: indent 4, characters as they are, no line end
    try:
        return json.dumps(value, indent=4, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise DatasetError(
            f"meta/info.json or meta/stats.json can't be written again ({error}): it is nested too deep, or "
            "holds half a character"
        ) from error
