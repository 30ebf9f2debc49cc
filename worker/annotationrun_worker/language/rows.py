"""Rows as the modules make them: they name a frame, not a time; the merge looks the time up.

The styles, who owns them, and the `say` tool: the language columns of LeRobot v3.0 (lerobot 0.6.1,
``datasets/language.py``).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NoReturn

from annotationrun_worker.errors import StagingError

ModuleName = Literal["plan", "interjections", "vqa"]
"""A module whose rows are published."""
ResultName = Literal["task", "plan", "interjections", "vqa"]
"""What results are staged for; ``task`` is a derived task that the modules build on."""

PERSISTENT_STYLES: Final = frozenset({"subtask", "plan", "memory", "motion", "task_aug"})
"""Styles of ``language_persistent``: the same list stands on every frame of the episode."""
EVENT_STYLES: Final = frozenset({"interjection", "vqa", "trace", None})
"""Styles of ``language_events``: a row stands on its frame alone; no style is speech."""
CAMERA_STYLES: Final = frozenset({"vqa", "trace"})
"""The styles that name a camera; all others must not."""

STYLES_OF_MODULE: Final[Mapping[ModuleName, frozenset[str | None]]] = {
    "plan": frozenset({"subtask", "plan", "memory", "task_aug"}),
    "interjections": frozenset({"interjection", None}),
    "vqa": frozenset({"vqa"}),
}
"""Who owns which rows; `motion` and `trace` have no owner here and always survive a merge."""

SAY_TOOL_NAME: Final = "say"


def module_of(style: str | None) -> ModuleName | None:
    """The module that owns rows of this style; ``None`` for the styles that no module makes."""
    return next((module for module, styles in STYLES_OF_MODULE.items() if style in styles), None)


def say_tool() -> dict[str, Any]:
    """The `say` entry for ``tools`` of ``meta/info.json``: an OpenAI function schema, new each time."""
    text = {"type": "string", "description": "What the robot says, as it is spoken."}
    return {
        "type": "function",
        "function": {
            "name": SAY_TOOL_NAME,
            "description": "Speak to the people around the robot.",
            "parameters": {"type": "object", "properties": {"text": text}, "required": ["text"]},
        },
    }


def say_call(text: str) -> dict[str, Any]:
    """The one tool call of a speech row."""
    return {"type": "function", "function": {"name": SAY_TOOL_NAME, "arguments": {"text": text}}}


@dataclass(frozen=True, slots=True)
class StagedRow:
    """One row as a module makes it."""

    frame: int
    """0-based in the episode."""
    role: str
    """``user`` or ``assistant``."""
    style: str | None
    """subtask, plan, memory, task_aug, interjection, vqa; ``None`` is speech."""
    content: str | None
    camera: str | None = None
    """The feature name of the camera: for vqa rows, and for nothing else."""
    tool_calls: tuple[Mapping[str, Any], ...] | None = None
    """JSON objects."""
    request: str | None = None
    """Hex digest of the request the row was made from; ``None`` for rows made without the model."""

    def to_json(self) -> str:
        """One line of canonical JSON: all fields, keys sorted, no spaces, no line end."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(
            values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict
        )

    @classmethod
    def from_json(cls, line: str) -> "StagedRow":
        """Read one line of ``to_json``, strictly.

        Raises:
            StagingError: not JSON, a field missing, unknown or of another type.
        """
        try:
            values = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            raise StagingError(f"a staged row is not JSON ({error}): {line[:200]!r}") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise StagingError(f"a staged row has to have exactly the fields {sorted(names)}: {line[:200]!r}")
        for name, expected, is_right in _FIELD_CHECKS:
            if not is_right(values[name]):
                raise StagingError(f"a staged row's {name} has to be {expected}: {line[:200]!r}")
        if values["tool_calls"] is not None:
            values["tool_calls"] = tuple(values["tool_calls"])
        return cls(**values)


def _is_frame(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: object) -> bool:
    return isinstance(value, str | None)


def _is_objects_or_null(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(call, dict) for call in value))


_FIELD_CHECKS: Final[tuple[tuple[str, str, Callable[[object], bool]], ...]] = (
    ("frame", "an integer from 0", _is_frame),
    ("role", "a string", _is_text),
    ("style", "a string or null", _is_text_or_null),
    ("content", "a string or null", _is_text_or_null),
    ("camera", "a string or null", _is_text_or_null),
    ("request", "a string or null", _is_text_or_null),
    ("tool_calls", "null or a list of objects", _is_objects_or_null),
)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
