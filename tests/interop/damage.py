"""Ways to damage an annotated dataset on purpose: the judge must reject every one, for the reason named.

Each takes the folder of a valid annotated copy of `tests/data/lerobot_v3` (rows in episodes 0 to 2, which its
first data file holds) and changes it in place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from tests.support.annotated_dataset import (
    CAMERAS,
    DataFile,
    data_paths,
    edit_json,
    edit_language,
    event_row,
    persistent_row,
    read_language,
    speech_row,
    write_language,
    write_table,
)


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage.

    Attributes:
        name: what is wrong, as a sentence; also the id of the test.
        apply: does it to the dataset in the folder.
        reason: regular expression that one of the judge's errors must match.
    """

    name: str
    apply: Callable[[Path], object]
    reason: str


def _first_file(dataset: Path) -> DataFile:
    return read_language(data_paths(dataset)[0])


def _drop_columns_of_last_file(dataset: Path) -> None:
    path = data_paths(dataset)[-1]
    write_table(pq.read_table(path).drop_columns(["language_persistent", "language_events"]), path)


def _drop_feature(dataset: Path) -> None:
    edit_json(dataset / "meta" / "info.json", lambda info: info["features"].pop("language_events"))


def _drop_tools(dataset: Path) -> None:
    edit_json(dataset / "meta" / "info.json", lambda info: info.pop("tools"))


def _break_version(dataset: Path) -> None:
    edit_json(dataset / "meta" / "info.json", lambda info: info.update(codebase_version="v2.1"))


def _remove_tasks(dataset: Path) -> None:
    (dataset / "meta" / "tasks.parquet").unlink()


def _remove_video(dataset: Path) -> None:
    min((dataset / "videos" / CAMERAS[0]).glob("*/*.mp4")).unlink()


def _swap_columns(dataset: Path) -> None:
    for path in data_paths(dataset):
        table = pq.read_table(path)
        names = table.column_names
        write_table(table.select([*names[:-2], names[-1], names[-2]]), path)


def _infer_types(dataset: Path) -> None:
    path = data_paths(dataset)[0]
    table = pq.read_table(path)
    column = table["language_persistent"]
    plain = [[row | {"tool_calls": None} for row in rows] for rows in column.to_pylist()]
    place = table.column_names.index("language_persistent")
    write_table(table.set_column(place, "language_persistent", [plain]), path)


def _rename_style(dataset: Path) -> None:
    file = _first_file(dataset)
    for rows in file.persistent:
        for row in rows:
            row["style"] = row["style"].replace("memory", "recollection")
    write_language(file)


def _edit_first_vqa(dataset: Path, role: str, **changes: object) -> None:
    file = _first_file(dataset)
    rows = (row for rows in file.events for row in rows if row["style"] == "vqa" and row["role"] == role)
    next(rows).update(changes)
    write_language(file)


def _move_event_off_its_frame(dataset: Path) -> None:
    file = _first_file(dataset)
    place = next(
        at for at, rows in enumerate(file.events) if any(row["style"] == "interjection" for row in rows)
    )
    moved = [row for row in file.events[place] if row["style"] == "interjection"]
    file.events[place] = [row for row in file.events[place] if row["style"] != "interjection"]
    file.events[place + 1] = moved
    write_language(file)


def drop_plan(dataset: Path) -> None:
    """Remove every plan row, as a run without plans leaves them out."""

    def edit(file: DataFile) -> None:
        file.persistent = [[row for row in rows if row["style"] != "plan"] for rows in file.persistent]

    edit_language(dataset, edit)


def _answer_without_question(dataset: Path) -> None:
    file = _first_file(dataset)
    place = next(at for at, rows in enumerate(file.events) if any(row["style"] == "vqa" for row in rows))
    file.events[place] = [row for row in file.events[place] if row["role"] != "user"]
    write_language(file)


def _add_persistent(dataset: Path, style: str, at_frame: int, seconds_off: float) -> None:
    file = _first_file(dataset)
    frames = file.frames_of(0)
    row = persistent_row(style, file.timestamps[frames[at_frame]] + seconds_off, "something else")
    for place in frames:
        rows = [*file.persistent[place], row]
        file.persistent[place] = sorted(rows, key=lambda r: (r["timestamp"], r["style"], r["role"]))
    write_language(file)


def _second_subtask_at_start(dataset: Path) -> None:
    _add_persistent(dataset, "subtask", 0, 0.0)


def _motion_between_frames(dataset: Path) -> None:
    _add_persistent(dataset, "motion", 4, 0.01)


def _null_role(dataset: Path) -> None:
    def edit(file: DataFile) -> None:
        file.role_may_be_null = True
        if file.path == data_paths(dataset)[0]:
            for place in file.frames_of(1):
                file.persistent[place] = [row | {"role": None} for row in file.persistent[place]]

    edit_language(dataset, edit)


def _forget_rows_on_one_frame(dataset: Path) -> None:
    file = _first_file(dataset)
    file.persistent[file.frames_of(2)[7]] = []
    write_language(file)


def _say_nothing(dataset: Path) -> None:
    file = _first_file(dataset)
    file.events[0] = [row | {"tool_calls": None} if row["style"] is None else row for row in file.events[0]]
    write_language(file)


def _speak_twice(dataset: Path) -> None:
    file = _first_file(dataset)
    file.events[0] = [speech_row("Once more."), *file.events[0]]
    write_language(file)


def _subtask_as_event(dataset: Path) -> None:
    file = _first_file(dataset)
    file.events[1] = [event_row("subtask", "assistant", "pick up the block")]
    write_language(file)


def _late_first_subtask(dataset: Path) -> None:
    file = _first_file(dataset)
    frames = file.frames_of(0)
    for place in frames:
        rows = file.persistent[place]
        first = next(row for row in rows if row["style"] == "subtask")
        first["timestamp"] = file.timestamps[frames[3]]
        rows.sort(key=lambda r: (r["timestamp"], r["style"], r["role"]))
    write_language(file)


def _damage_vqa(role: str, **changes: object) -> Callable[[Path], None]:
    return lambda dataset: _edit_first_vqa(dataset, role, **changes)


DAMAGES = (
    Damage(
        "one data file lacks the columns",
        _drop_columns_of_last_file,
        r"^load: DatasetGenerationError",
    ),
    Damage("info.json does not name a column", _drop_feature, r"^load: .*CastError.*language_events"),
    Damage("info.json does not declare a tool that is called", _drop_tools, r"^tools: .*'say'"),
    Damage("the format version is another one", _break_version, r"^load: BackwardCompatibilityError"),
    Damage("tasks.parquet is gone", _remove_tasks, r"^load: .*FileNotFoundError.*tasks\.parquet"),
    Damage("a video is gone", _remove_video, r"^load: OfflineModeIsEnabled"),
    Damage("the columns are in the wrong order", _swap_columns, r"^files: .*the last columns are"),
    Damage("one file has inferred types", _infer_types, r"^files: .*language_persistent has type"),
    Damage("a style is unknown", _rename_style, r"^staging: .*unknown style 'recollection'"),
    Damage(
        "a VQA answer is not JSON",
        _damage_vqa("assistant", content="a red block"),
        r"^staging: .*not valid JSON",
    ),
    Damage(
        "a VQA answer has no known shape",
        _damage_vqa("assistant", content='{"hue": 3}'),
        r"^staging: .*known shape",
    ),
    Damage("a VQA row names no camera", _damage_vqa("user", camera=None), r"^staging: .*non-empty 'camera'"),
    Damage(
        "a VQA row names an unknown camera", _damage_vqa("user", camera="top"), r"^staging: .*camera 'top'"
    ),
    Damage("a VQA answer lost its question", _answer_without_question, r"^rows: .*vqa rows of camera"),
    Damage(
        "an interjection is one frame late", _move_event_off_its_frame, r"^staging: .*no paired speech atom"
    ),
    Damage("an interjection has no plan row", drop_plan, r"^staging: .*no co-timestamped plan update"),
    Damage(
        "two subtasks start at one time", _second_subtask_at_start, r"^render: ValueError: Ambiguous resolver"
    ),
    Damage("a row lies between two frames", _motion_between_frames, r"^rows: .*no frame of the episode"),
    Damage("the first subtask starts late", _late_first_subtask, r"^render: .*no subtask is active at t=0"),
    Damage("the role of rows is null", _null_role, r"^rows: .*role None"),
    Damage(
        "one frame lost the persistent rows", _forget_rows_on_one_frame, r"^rows: .*episode's first frame"
    ),
    Damage("a speech row says nothing", _say_nothing, r"^rows: .*neither content nor tool_calls"),
    Damage("two speech rows stand on one frame", _speak_twice, r"^render: ValueError: Ambiguous resolver"),
    Damage(
        "a subtask stands among the events", _subtask_as_event, r"^rows: .*event slice .* style 'subtask'"
    ),
)
"""Every damage; the names are unique."""
