"""The two language columns, and what ``meta/`` says of them.

The two language columns as Arrow arrays: their official types, their order, how they are built.

Types and row order are LeRobot's (lerobot 0.6.1, ``datasets/language.py``). Arrays are built by episode,
never through a Python object a frame.

The edits of ``meta/``: as JSON, so that every key this version does not know survives. Pure.
"""

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.rows import SAY_TOOL_NAME, say_tool

PERSISTENT_COLUMN: Final = "language_persistent"
EVENTS_COLUMN: Final = "language_events"
LANGUAGE_COLUMNS: Final = (PERSISTENT_COLUMN, EVENTS_COLUMN)
"""In the order in which they stand, after all other columns."""
REPLACED_COLUMNS: Final = ("subtask_index", "tools")
"""Older columns that the language columns replace."""

_TOOL_CALLS_TYPE: Final = pa.list_(pa.json_())

PERSISTENT_TYPE: Final = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string()),
            pa.field("style", pa.string()),
            pa.field("timestamp", pa.float32(), nullable=False),
            pa.field("camera", pa.string()),
            pa.field("tool_calls", _TOOL_CALLS_TYPE),
        ]
    )
)
EVENTS_TYPE: Final = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string()),
            pa.field("style", pa.string()),
            pa.field("camera", pa.string()),
            pa.field("tool_calls", _TOOL_CALLS_TYPE),
        ]
    )
)

_BLOCK_FRAMES = 256
"""Frames that share one array of repeated rows: it alone is in memory, however long the episode."""


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """One row as it stands in the columns."""

    role: str | None
    """``None`` only in a broken file."""
    content: str | None
    style: str | None
    camera: str | None
    tool_calls: tuple[str, ...] | None
    """Each one JSON text."""
    timestamp_seconds: float | None = None
    """Of a persistent row: a float32 value, exactly. ``None`` for an event, whose time is its frame's."""


@dataclass(frozen=True, slots=True)
class EpisodeLanguage:
    """All language rows of one episode, sorted as they stand in the columns."""

    persistent: tuple[LanguageRow, ...]
    events: Mapping[int, tuple[LanguageRow, ...]]
    """By frame (0-based in the episode), only frames that have any."""


def json_text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a JSON value as it is stored in a row: sorted keys, no spaces, characters as they are."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sort_persistent(rows: Iterable[LanguageRow]) -> tuple[LanguageRow, ...]:
    """Sort by (timestamp, style, role); equal ones keep their order."""
    return tuple(
        sorted(rows, key=lambda row: (row.timestamp_seconds or 0.0, row.style or "", row.role or ""))
    )


def sort_events(rows: Iterable[LanguageRow]) -> tuple[LanguageRow, ...]:
    """Sort the events of one frame by (style, role, camera), no value first; equal ones keep their order."""
    return tuple(sorted(rows, key=lambda row: (row.style or "", row.role or "", row.camera or "")))


def persistent_array(rows: tuple[LanguageRow, ...], frame_count: int) -> pa.ChunkedArray:
    """Build ``language_persistent`` of one episode: the same list on each of its frames.

    The chunks are one array named several times, so memory does not grow with the episode's length.
    """
    block_frames = min(_BLOCK_FRAMES, frame_count)
    values = _struct_array(rows, PERSISTENT_TYPE.value_type)
    one = pa.ListArray.from_arrays(pa.array([0, len(rows)], pa.int32()), values, type=PERSISTENT_TYPE)
    block = one.take(pa.array(np.zeros(block_frames, np.int32)))
    full, rest = divmod(frame_count, block_frames) if block_frames else (0, 0)
    chunks = [block] * full + ([block.slice(0, rest)] if rest else [])
    return pa.chunked_array(chunks, type=PERSISTENT_TYPE)


def events_array(events: Mapping[int, tuple[LanguageRow, ...]], frame_count: int) -> pa.ChunkedArray:
    """Build ``language_events`` of one episode: each frame's own rows, an empty list where there are none."""
    counts = np.zeros(frame_count, np.int32)
    for frame, rows in events.items():
        counts[frame] = len(rows)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    ordered = tuple(row for frame in sorted(events) for row in events[frame])
    values = _struct_array(ordered, EVENTS_TYPE.value_type)
    array = pa.ListArray.from_arrays(pa.array(offsets), values, type=EVENTS_TYPE)
    return pa.chunked_array([array], type=EVENTS_TYPE)


def _struct_array(rows: tuple[LanguageRow, ...], struct: pa.StructType) -> pa.StructArray:
    columns: dict[str, pa.Array] = {
        "role": pa.array([row.role for row in rows], pa.string()),
        "content": pa.array([row.content for row in rows], pa.string()),
        "style": pa.array([row.style for row in rows], pa.string()),
        "timestamp": pa.array([row.timestamp_seconds for row in rows], pa.float32()),
        "camera": pa.array([row.camera for row in rows], pa.string()),
        "tool_calls": _tool_calls_array(rows),
    }
    fields = list(struct)
    return pa.StructArray.from_arrays([columns[field.name] for field in fields], fields=fields)


def _tool_calls_array(rows: tuple[LanguageRow, ...]) -> pa.ListArray:
    calls = [call for row in rows for call in row.tool_calls or ()]
    # pyarrow builds no extension array from Python values: from_storage is the way to arrow.json
    values = pa.ExtensionArray.from_storage(pa.json_(), pa.array(calls, pa.string()))
    counts = [len(row.tool_calls or ()) for row in rows]
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    mask = pa.array([row.tool_calls is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=_TOOL_CALLS_TYPE, mask=mask)


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
