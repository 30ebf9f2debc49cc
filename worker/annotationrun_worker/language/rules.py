"""The rules that language rows have to keep. Pure.

What the validator says.

Rows without style: a call of the `say` tool, or of another tool of the dataset. Pure.

Rules over the language rows of one episode. Pure.

Rules over the frames that the language rows stand on. Pure.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from annotationrun_worker.language.answers import ImageSize, answer_text_faults
from annotationrun_worker.language.columns import LanguageRow, sort_events, sort_persistent
from annotationrun_worker.language.existing import AnnotatedEpisode
from annotationrun_worker.language.rows import CAMERA_STYLES, EVENT_STYLES, PERSISTENT_STYLES, SAY_TOOL_NAME

Severity = Literal["error", "warning"]
"""``error``: breaks the contract; ``warning``: loads and trains, but is hardly meant."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One rule that does not hold, and where."""

    rule: str
    """Short name of the rule, such as ``vqa-pair``."""
    message: str
    severity: Severity = "error"
    episode: int | None = None
    """``None``: it concerns a file or the whole dataset."""
    frame: int | None = None
    """0-based in the episode."""
    timestamp_seconds: float | None = None
    style: str | None = None
    """Of the row; ``speech`` for the rows without style; ``None``: it concerns no single style."""

    def __str__(self) -> str:
        where = [
            None if self.episode is None else f"episode {self.episode}",
            None if self.frame is None else f"frame {self.frame}",
            None if self.timestamp_seconds is None else f"{self.timestamp_seconds:.3f} s",
            self.style,
        ]
        place = ", ".join(part for part in where if part)
        return f"{self.severity} [{self.rule}]{f' {place}' if place else ''}: {self.message}"


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


ROLES: Final = frozenset({"user", "assistant"})
ROLES_OF_STYLE: Final[Mapping[str | None, frozenset[str]]] = {
    "subtask": frozenset({"assistant"}),
    "plan": frozenset({"assistant"}),
    "memory": frozenset({"assistant"}),
    "task_aug": frozenset({"user"}),
    "interjection": frozenset({"user"}),
    None: frozenset({"assistant"}),
}
"""Styles that are not named here may have either role."""

KNOWN_STYLES: Final = PERSISTENT_STYLES | EVENT_STYLES
"""Rows of other styles are other tools', which alone know what has to hold for them."""

SPEECH: Final = "speech"
"""How problems name the rows without style."""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What the rules need to know of ``meta/info.json``."""

    cameras: Mapping[str, ImageSize | None]
    """All cameras; ``None`` where the size can't be told."""
    tools: frozenset[str]
    """Names of the tools."""


def episode_problems(episode: AnnotatedEpisode, facts: DatasetFacts) -> Iterator[Problem]:
    """Check all language rows of one episode."""
    yield from _persistent_problems(episode, facts)
    yield from _event_problems(episode, facts)


def _persistent_problems(episode: AnnotatedEpisode, facts: DatasetFacts) -> Iterator[Problem]:
    index, rows = episode.index, episode.language.persistent
    if episode.differs_at is not None:
        yield Problem(
            "persistent-same",
            "the persistent rows are not those of frame 0",
            episode=index,
            frame=episode.differs_at,
        )
    if rows != sort_persistent(rows):
        yield Problem("sorted", "persistent rows are not sorted by (timestamp, style, role)", episode=index)
    frame_times = set(episode.timestamps_seconds.tolist())
    for row in rows:
        if row.style not in KNOWN_STYLES:
            continue
        if row.style not in PERSISTENT_STYLES:
            yield _at(
                row, index, None, "style", f"not a persistent style, expected {_names(PERSISTENT_STYLES)}"
            )
        if row.timestamp_seconds not in frame_times:
            yield _at(row, index, None, "timestamp", "the timestamp is no frame's of this episode")
        for rule, message in _row_faults(row, facts):
            yield _at(row, index, None, rule, message)
    yield from _one_a_time(episode)
    yield from _subtask_problems(episode)


def _one_a_time(episode: AnnotatedEpisode) -> Iterator[Problem]:
    """LeRobot's reader stops at two rows of one style at one time (``Ambiguous resolver``)."""
    times = Counter(
        (row.style, row.timestamp_seconds)
        for row in episode.language.persistent
        if row.style in KNOWN_STYLES and row.style != "task_aug"
    )
    for (style, time), count in times.items():
        if count > 1:
            yield Problem(
                "one-a-time",
                f"{count} rows of one style share a timestamp",
                episode=episode.index,
                timestamp_seconds=time,
                style=style or SPEECH,
            )


def _subtask_problems(episode: AnnotatedEpisode) -> Iterator[Problem]:
    by_style: dict[str | None, list[LanguageRow]] = defaultdict(list)
    for row in episode.language.persistent:
        by_style[row.style].append(row)
    index, first_time = episode.index, float(episode.timestamps_seconds[0])
    starts = {row.timestamp_seconds for row in by_style["subtask"]}
    plans = {row.timestamp_seconds for row in by_style["plan"]}
    if starts and first_time not in starts:
        yield _at(
            by_style["subtask"][0],
            index,
            None,
            "subtask-cover",
            f"no subtask at {first_time:.3f} s, the start",
        )
    if plans:
        for row in by_style["subtask"]:
            if row.timestamp_seconds not in plans:
                yield _at(row, index, None, "plan-row", "the subtask starts without a plan row")
    for row in by_style["memory"]:
        if row.timestamp_seconds not in starts:
            yield _at(row, index, None, "memory-time", "no subtask starts at this memory row", "warning")
    yield from _task_problems(by_style["task_aug"], index, first_time)


def _task_problems(rows: list[LanguageRow], index: int, first_time: float) -> Iterator[Problem]:
    seen: set[str | None] = set()
    for row in rows:
        if row.timestamp_seconds != first_time:
            yield _at(row, index, None, "task-aug-time", f"expected at {first_time:.3f} s, the start")
        if row.content in seen:
            yield _at(row, index, None, "task-aug-twice", f"{row.content!r} is there twice", "warning")
        seen.add(row.content)


def _event_problems(episode: AnnotatedEpisode, facts: DatasetFacts) -> Iterator[Problem]:
    index = episode.index
    plans = {row.timestamp_seconds for row in episode.language.persistent if row.style == "plan"}
    for frame, rows in episode.language.events.items():
        if rows != sort_events(rows):
            yield Problem(
                "sorted", "events are not sorted by (style, role, camera)", episode=index, frame=frame
            )
        for row in rows:
            if row.style not in KNOWN_STYLES:
                continue
            if row.style not in EVENT_STYLES:
                yield _at(row, index, frame, "style", f"not an event style, expected {_names(EVENT_STYLES)}")
            for rule, message in _row_faults(row, facts):
                yield _at(row, index, frame, rule, message)
        time = float(episode.timestamps_seconds[frame])
        yield from _interjection_problems(rows, index, frame, plan_missing=bool(plans) and time not in plans)
        yield from _vqa_problems(rows, index, frame, facts)


def _interjection_problems(
    rows: tuple[LanguageRow, ...], index: int, frame: int, *, plan_missing: bool
) -> Iterator[Problem]:
    interjections = [row for row in rows if row.style == "interjection"]
    speeches = [row for row in rows if row.style is None and says(row)]
    for found in (interjections, speeches):
        if len(found) > 1:
            yield _at(
                found[0], index, frame, "one-a-frame", f"{len(found)} rows on this frame, at most one may be"
            )
    if interjections and not speeches:
        yield _at(
            interjections[0], index, frame, "interjection-speech", "nothing is said on the frame in answer"
        )
    if interjections and plan_missing:
        yield _at(
            interjections[0],
            index,
            frame,
            "plan-row",
            "the interjection comes without a plan row at its time",
        )
    if speeches and not interjections and frame > 0:
        yield _at(
            speeches[0],
            index,
            frame,
            "speech-alone",
            "speech after the start without interjection",
            "warning",
        )


def _vqa_problems(
    rows: tuple[LanguageRow, ...], index: int, frame: int, facts: DatasetFacts
) -> Iterator[Problem]:
    roles: dict[str | None, list[str | None]] = defaultdict(list)
    for row in rows:
        if row.style != "vqa":
            continue
        roles[row.camera].append(row.role)
        if row.role == "assistant" and row.content:
            for fault in answer_text_faults(row.content, facts.cameras.get(row.camera or "")):
                yield _at(row, index, frame, "vqa-answer", f"camera {row.camera!r}: {fault}")
    for camera, found in roles.items():
        if sorted(role or "" for role in found) != ["assistant", "user"]:
            yield Problem(
                "vqa-pair",
                f"camera {camera!r} has vqa rows of the roles {found}, expected one user and one assistant",
                episode=index,
                frame=frame,
                style="vqa",
            )


def _row_faults(row: LanguageRow, facts: DatasetFacts) -> Iterator[tuple[str, str]]:
    """Rules that each row has to keep by itself: (rule, message)."""
    roles = ROLES_OF_STYLE.get(row.style, ROLES)
    if row.role not in roles:
        yield "role", f"role is {row.role!r}, expected {_names(roles)}"
    if row.style in CAMERA_STYLES and row.camera not in facts.cameras:
        yield "camera", f"camera is {row.camera!r}, expected one of {sorted(facts.cameras)}"
    if row.style not in CAMERA_STYLES and row.camera is not None:
        yield "camera", f"camera is {row.camera!r}, expected none"
    if row.style is None:
        yield from speech_faults(row, facts.tools)
        return
    if row.content is None or not row.content.strip():
        yield "content", "the row has no content"
    if row.tool_calls is not None:
        yield "tool-calls", f"tool_calls is {_short(row.tool_calls)}, expected none"


def _at(
    row: LanguageRow, episode: int, frame: int | None, rule: str, message: str, severity: Severity = "error"
) -> Problem:
    return Problem(
        rule,
        message,
        severity,
        episode=episode,
        frame=frame,
        timestamp_seconds=row.timestamp_seconds,
        style=row.style or SPEECH,
    )


def _names(values: frozenset[str] | frozenset[str | None]) -> str:
    return ", ".join(sorted(value or "none" for value in values))


def _short(value: object) -> str:
    return repr(value)[:120]


def frame_problems(episode: AnnotatedEpisode) -> Iterator[Problem]:
    """Check the frames themselves: numbered from 0, times finite and rising."""
    index = episode.index
    wrong = np.flatnonzero(episode.frame_indices != np.arange(len(episode.frame_indices)))
    if len(wrong):
        row = int(wrong[0])
        yield Problem(
            "frames", f"frame_index is {episode.frame_indices[row]}, expected {row}", episode=index, frame=row
        )
    times = episode.timestamps_seconds
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        yield Problem("frames", f"timestamp is {times[bad[0]]}", episode=index, frame=int(bad[0]))
        return
    stuck = np.flatnonzero(np.diff(times) <= 0)
    if len(stuck):
        frame = int(stuck[0]) + 1
        yield Problem(
            "frames", f"timestamp {times[frame]} s follows {times[frame - 1]} s", episode=index, frame=frame
        )
