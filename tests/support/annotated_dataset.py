"""A LeRobot v3.0 dataset annotated by hand: the language columns written with pyarrow alone.

It shares no code with the worker, so that it can be held against the worker's output. `copy_dataset` and
`edit_language` are also what damages a dataset on purpose.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = dict[str, Any]
"""One language row; `tool_calls` is None or a list of dicts, not of JSON texts."""

CAMERAS = ("observation.images.front", "observation.images.wrist")
LANGUAGE_COLUMNS = ("language_persistent", "language_events")
SAY_TOOL = {
    "type": "function",
    "function": {
        "name": "say",
        "description": "Speak.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
}
VQA_ANSWERS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "Where is the block?",
        {"detections": [{"label": "block", "bbox_format": "xyxy", "bbox": [4, 8, 44, 48]}]},
    ),
    ("Point at the block.", {"label": "block", "point_format": "xy", "point": [24, 28]}),
    ("How many blocks are there?", {"label": "block", "count": 1}),
    ("What colour is the block?", {"label": "block", "attribute": "colour", "value": "red"}),
    ("Where is the block to the bin?", {"subject": "block", "relation": "left_of", "object": "bin"}),
)


@dataclass(slots=True)
class DataFile:
    """The language rows of one data file, one entry per frame of the file.

    Attributes:
        path: the parquet file.
        episodes: `episode_index` of every frame.
        timestamps: seconds from the start of the episode, the float32 values as Python floats.
        persistent: rows of `language_persistent` of every frame.
        events: rows of `language_events` of every frame.
        role_may_be_null: write `role` as nullable, which the official type forbids.
    """

    path: Path
    episodes: list[int]
    timestamps: list[float]
    persistent: list[list[Row]]
    events: list[list[Row]]
    role_may_be_null: bool = False

    def frames_of(self, episode: int) -> list[int]:
        """Places in this file of the episode's frames, in order; empty when it lies in another file."""
        return [place for place, value in enumerate(self.episodes) if value == episode]


def data_paths(dataset: Path) -> list[Path]:
    """All data files, in order."""
    return sorted(dataset.glob("data/*/*.parquet"))


def copy_dataset(source: Path, destination: Path) -> Path:
    """Copy a dataset; its videos are hard links where the file system allows it."""

    def link_video(source_file: str, destination_file: str) -> str:
        if not source_file.endswith(".mp4"):
            return shutil.copy2(source_file, destination_file)
        try:
            os.link(source_file, destination_file)
        except OSError:
            shutil.copy2(source_file, destination_file)
        return destination_file

    shutil.copytree(source, destination, copy_function=link_video)
    return destination


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file after `edit` has changed its object in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


def read_language(path: Path) -> DataFile:
    """Read a data file's language rows; a file without the columns has empty ones."""
    table = pq.read_table(path)

    def rows_of(column: str) -> list[list[Row]]:
        if column not in table.column_names:
            return [[] for _ in range(table.num_rows)]
        return [[_with_parsed_calls(row) for row in rows] for rows in table[column].to_pylist()]

    return DataFile(
        path=path,
        episodes=table["episode_index"].to_pylist(),
        timestamps=table["timestamp"].to_pylist(),
        persistent=rows_of("language_persistent"),
        events=rows_of("language_events"),
    )


def write_language(file: DataFile) -> None:
    """Write the rows into the file: official types, columns last, one row group per episode, snappy."""
    table = pq.read_table(file.path)
    present = [name for name in table.column_names if name in LANGUAGE_COLUMNS]
    table = table.drop_columns(present).replace_schema_metadata(None)
    nullable = file.role_may_be_null
    for column, frames, timed in (
        ("language_persistent", file.persistent, True),
        ("language_events", file.events, False),
    ):
        as_text = [[_with_call_texts(row) for row in rows] for rows in frames]
        plain = pa.array(as_text, type=_column_type(pa.string(), timed=timed, role_nullable=nullable))
        table = table.append_column(
            column, plain.cast(_column_type(pa.json_(), timed=timed, role_nullable=nullable))
        )
    write_table(table, file.path)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a data file with one row group per episode; the rows of an episode are neighbours."""
    starts = [0]
    episodes = table["episode_index"].to_pylist()
    starts += [place for place in range(1, len(episodes)) if episodes[place] != episodes[place - 1]]
    # Never in place: a copy of the file elsewhere may be a hard link to it.
    beside = path.with_suffix(".new")
    with pq.ParquetWriter(beside, table.schema, compression="snappy") as writer:
        for start, stop in zip(starts, [*starts[1:], len(episodes)], strict=True):
            writer.write_table(table.slice(start, stop - start))
    beside.replace(path)


def edit_language(dataset: Path, edit: Callable[[DataFile], object]) -> None:
    """Let `edit` change the language rows of every data file in place, and write them back."""
    for path in data_paths(dataset):
        file = read_language(path)
        edit(file)
        write_language(file)


def annotate_by_hand(source: Path, destination: Path, *, without_rows: frozenset[int] = frozenset()) -> Path:
    """Copy `source` and give every episode rows of all styles that a run makes.

    Args:
        source: an unannotated LeRobot v3.0 dataset with the cameras `CAMERAS`.
        destination: a folder that does not exist.
        without_rows: episodes that get no rows, as those that failed in a run have none.
    """
    copy_dataset(source, destination)

    def annotate(file: DataFile) -> None:
        for episode in sorted(set(file.episodes) - without_rows):
            frames = file.frames_of(episode)
            persistent = _persistent_rows([file.timestamps[place] for place in frames])
            for place in frames:
                file.persistent[place] = persistent
            for frame, rows in _event_rows(len(frames)).items():
                file.events[frames[frame]] = rows

    edit_language(destination, annotate)

    def name_columns(info: dict[str, Any]) -> None:
        for column in LANGUAGE_COLUMNS:
            info["features"][column] = {"dtype": "language", "shape": [1], "names": None}
        info["tools"] = [SAY_TOOL]

    edit_json(destination / "meta" / "info.json", name_columns)
    return destination


def persistent_row(style: str, timestamp: float, content: str, role: str = "assistant") -> Row:
    """A row of `language_persistent`; `timestamp` in seconds from the start of the episode."""
    return {
        "role": role,
        "content": content,
        "style": style,
        "timestamp": timestamp,
        "camera": None,
        "tool_calls": None,
    }


def event_row(style: str | None, role: str, content: str | None, camera: str | None = None) -> Row:
    """A row of `language_events`."""
    return {"role": role, "content": content, "style": style, "camera": camera, "tool_calls": None}


def speech_row(text: str) -> Row:
    """The speech atom: an assistant's row without style and content, with one `say` call."""
    call = {"type": "function", "function": {"name": "say", "arguments": {"text": text}}}
    return event_row(None, "assistant", None) | {"tool_calls": [call]}


def _subtask_frames(frame_count: int) -> tuple[int, int, int]:
    return 0, frame_count // 3, 2 * frame_count // 3


def _persistent_rows(timestamps: list[float]) -> list[Row]:
    subtasks = ("pick up the block", "carry the block", "place the block")
    starts = [timestamps[frame] for frame in _subtask_frames(len(timestamps))]
    rows = [
        persistent_row("task_aug", starts[0], text, role="user")
        for text in ("Move the block.", "Shift the block.")
    ]
    for number, (start, subtask) in enumerate(zip(starts, subtasks, strict=True)):
        to_do = "\n".join(f"{place}. {text}" for place, text in enumerate(subtasks[number:], start=1))
        rows += [persistent_row("subtask", start, subtask), persistent_row("plan", start, to_do)]
        if number:
            rows.append(persistent_row("memory", start, f"I finished: {subtasks[number - 1]}."))
    return sorted(rows, key=lambda row: (row["timestamp"], row["style"], row["role"]))


def _event_rows(frame_count: int) -> dict[int, list[Row]]:
    """Rows by frame: speech at the start, an interjection, questions to both cameras every 30 frames."""
    interjected = _subtask_frames(frame_count)[1]
    rows: dict[int, list[Row]] = {0: [speech_row("I will move the block.")]}
    rows[interjected] = [speech_row("All right."), event_row("interjection", "user", "Carry it now, please.")]
    for number, frame in enumerate(range(0, frame_count, 30)):
        question, answer = VQA_ANSWERS[number % len(VQA_ANSWERS)]
        for camera in CAMERAS:
            rows.setdefault(frame, []).extend(
                [
                    event_row("vqa", "user", question, camera),
                    event_row("vqa", "assistant", json.dumps(answer, sort_keys=True), camera),
                ]
            )
    return {
        frame: sorted(of_frame, key=lambda row: (row["style"] or "", row["role"], row["camera"] or ""))
        for frame, of_frame in rows.items()
    }


def _column_type(call_type: pa.DataType, *, timed: bool, role_nullable: bool) -> pa.DataType:
    fields = [
        pa.field("role", pa.string(), nullable=role_nullable),
        pa.field("content", pa.string()),
        pa.field("style", pa.string()),
        *([pa.field("timestamp", pa.float32(), nullable=False)] if timed else []),
        pa.field("camera", pa.string()),
        pa.field("tool_calls", pa.list_(call_type)),
    ]
    return pa.list_(pa.struct(fields))


def _with_parsed_calls(row: Row) -> Row:
    calls = row["tool_calls"]
    return row | {"tool_calls": calls and [json.loads(call) for call in calls]}


def _with_call_texts(row: Row) -> Row:
    calls = row["tool_calls"]
    return row | {"tool_calls": calls and [json.dumps(call, sort_keys=True) for call in calls]}
