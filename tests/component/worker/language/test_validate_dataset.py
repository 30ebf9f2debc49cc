"""The validator on real datasets: what was annotated by hand is valid, each damage is found by its rule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    CAMERAS,
    Row,
    annotate_by_hand,
    copy_dataset,
    data_paths,
    edit_json,
    event_row,
    persistent_row,
    read_language,
    speech_row,
    write_language,
    write_table,
)
from tests.support.checkout import REFERENCE

from annotationrun_worker.language.validate import validate_dataset

FRONT, WRIST = CAMERAS
Damage = Callable[[Path], object]
param = pytest.param


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate_by_hand(
        REFERENCE, tmp_path_factory.mktemp("hand") / "annotated", without_rows=frozenset({5})
    )


def on_each_frame(episode: int, edit: Callable[[list[Row]], object]) -> Damage:
    """Edit the persistent rows of an episode of the first file, the same way on each frame."""

    def damage(dataset: Path) -> None:
        file = read_language(data_paths(dataset)[0])
        places = file.frames_of(episode)
        rows = file.persistent[places[0]]
        edit(rows)
        for place in places:
            file.persistent[place] = rows
        write_language(file)

    return damage


def on_frame(frame: int, edit: Callable[[list[Row]], object]) -> Damage:
    """Edit the events of a frame of episode 0."""

    def damage(dataset: Path) -> None:
        file = read_language(data_paths(dataset)[0])
        edit(file.events[frame])
        write_language(file)

    return damage


def first(rows: list[Row], style: str | None, role: str | None = None) -> Row:
    return next(row for row in rows if row["style"] == style and role in {None, row["role"]})


def change(style: str | None, role: str | None = None, /, **values: object) -> Callable[[list[Row]], object]:
    return lambda rows: first(rows, style, role).update(values)


def drop(style: str | None, role: str | None = None) -> Callable[[list[Row]], object]:
    return lambda rows: rows.remove(first(rows, style, role))


def add(row: Row, at: int = 0) -> Callable[[list[Row]], object]:
    return lambda rows: rows.insert(at, row)


def answer(value: object, *, is_text: bool = False) -> Damage:
    text = value if is_text else json.dumps(value, sort_keys=True)
    return on_frame(0, change("vqa", "assistant", content=text))


def box(x1: float, y1: float, x2: float, y2: float, label: str = "block") -> dict[str, Any]:
    return {"detections": [{"label": label, "bbox_format": "xyxy", "bbox": [x1, y1, x2, y2]}]}


def call(name: str, **arguments: object) -> list[dict[str, object]]:
    return [{"type": "function", "function": {"name": name, "arguments": arguments}}]


def on_table(edit: Callable[[pa.Table], pa.Table], file: int = 0) -> Damage:
    def damage(dataset: Path) -> None:
        path = data_paths(dataset)[file]
        write_table(edit(pq.read_table(path)), path)

    return damage


def on_info(edit: Callable[[dict[str, Any]], object]) -> Damage:
    return lambda dataset: edit_json(dataset / "meta/info.json", edit)


def one_row_group(dataset: Path) -> None:
    path = data_paths(dataset)[0]
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table, path)


def many_row_groups(dataset: Path) -> None:
    path = data_paths(dataset)[2]
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table, path, row_group_size=500)


def truncated(dataset: Path) -> None:
    path = data_paths(dataset)[1]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def emptied_video(dataset: Path) -> None:
    path = min(dataset.glob("videos/*/*/*.mp4"))
    path.unlink()  # a hard link: writing into it would empty the reference too
    path.touch()


def with_timestamp(frame: int, value: float) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        times = table["timestamp"].to_pylist()
        times[frame] = value
        place = table.column_names.index("timestamp")
        return table.set_column(place, "timestamp", pa.array(times, pa.float32()))

    return edit


def differ_on_the_last_frame(dataset: Path) -> None:
    file = read_language(data_paths(dataset)[0])
    last = file.frames_of(2)[-1]
    file.persistent[last] = [*file.persistent[last], persistent_row("subtask", 11.0, "rest")]
    write_language(file)


FILES = [
    param(lambda d: (d / "meta/info.json").unlink(), "info", id="info.json is missing"),
    param(on_info(lambda i: i.update(codebase_version="v2.1")), "info", id="another version"),
    param(on_info(lambda i: i["features"].pop("language_events")), "features", id="a feature is missing"),
    param(
        on_info(lambda i: i["features"]["language_persistent"].update(shape=[2])),
        "features",
        id="a feature of another shape",
    ),
    param(on_info(lambda i: i["features"].update(subtask_index={})), "features", id="a replaced feature"),
    param(on_info(lambda i: i.pop("tools")), "tools", id="no tools in info.json"),
    param(on_info(lambda i: i.update(tools=[{"function": {"name": "wave"}}])), "tools", id="no say tool"),
    param(
        lambda d: edit_json(d / "meta/stats.json", lambda s: s.update(tools={})),
        "stats",
        id="statistics of a replaced column",
    ),
    param(lambda d: (d / "meta/tasks.parquet").unlink(), "tasks", id="tasks.parquet is missing"),
    param(lambda d: min(d.glob("meta/episodes/*/*")).unlink(), "episodes", id="no list of episodes"),
    param(lambda d: min(d.glob("videos/*/*/*.mp4")).unlink(), "missing-file", id="a video is missing"),
    param(emptied_video, "missing-file", id="a video of no bytes"),
    param(lambda d: data_paths(d)[2].unlink(), "missing-file", id="a data file is missing"),
    param(lambda d: data_paths(d)[2].unlink(), "episode-rows", id="an episode without rows"),
    param(truncated, "unreadable", id="a truncated data file"),
    param(on_table(lambda t: t.drop_columns(["language_events"]), 2), "column-missing", id="a column less"),
    param(on_table(lambda t: t.drop_columns(["language_events"]), 2), "schema-same", id="files that differ"),
    param(
        on_table(lambda t: t.select([t.num_columns - 1, *range(t.num_columns - 1)])),
        "column-order",
        id="a language column that is not last",
    ),
    param(
        on_table(lambda t: t.set_column(t.num_columns - 2, "language_persistent", pa.nulls(t.num_rows))),
        "column-type",
        id="another type",
    ),
    param(
        on_table(lambda t: t.add_column(0, "tools", pa.nulls(t.num_rows, pa.string()))),
        "replaced-column",
        id="a replaced column",
    ),
    param(
        on_table(lambda t: t.replace_schema_metadata({"huggingface": "{}"})),
        "huggingface-key",
        id="a stale huggingface key",
    ),
    param(one_row_group, "row-group", id="three episodes in a row group"),
    param(many_row_groups, "row-group", id="an episode over three row groups"),
    param(on_table(lambda t: t.slice(1)), "frames", id="the first frame is missing"),
    param(on_table(lambda t: t.slice(1)), "episode-rows", id="a frame less than meta/episodes says"),
    param(on_table(with_timestamp(7, float("nan"))), "frames", id="a timestamp that is no number"),
    param(on_table(with_timestamp(7, 0.0)), "frames", id="a timestamp that goes back"),
]

PERSISTENT = [
    param(differ_on_the_last_frame, "persistent-same", id="rows of the last frame differ"),
    param(on_each_frame(0, lambda rows: rows.reverse()), "sorted", id="not sorted"),
    param(on_each_frame(0, change("memory", style="vqa")), "style", id="an event style"),
    param(on_each_frame(0, change("subtask", role="user")), "role", id="a subtask of the user"),
    param(on_each_frame(0, change("task_aug", role="assistant")), "role", id="a task of the assistant"),
    param(on_each_frame(0, change("subtask", content=None)), "content", id="no content"),
    param(on_each_frame(0, change("subtask", content="  ")), "content", id="blank content"),
    param(on_each_frame(0, change("subtask", camera=FRONT)), "camera", id="a camera"),
    param(
        on_each_frame(0, change("subtask", tool_calls=call("say", text="a"))), "tool-calls", id="a tool call"
    ),
    param(on_each_frame(0, change("memory", timestamp=1.34)), "timestamp", id="a time between two frames"),
    param(
        on_each_frame(0, add(persistent_row("subtask", 0.0, "b"))),
        "one-a-time",
        id="two subtasks at one time",
    ),
    param(on_each_frame(0, drop("subtask")), "subtask-cover", id="no subtask at the start"),
    param(on_each_frame(0, drop("plan")), "plan-row", id="a subtask without plan row"),
    param(on_each_frame(0, change("task_aug", timestamp=1.0)), "task-aug-time", id="a task after the start"),
]

EVENTS = [
    param(on_frame(0, lambda rows: rows.reverse()), "sorted", id="not sorted"),
    param(on_frame(0, change("vqa", style="memory", camera=None)), "style", id="a persistent style"),
    param(on_frame(40, change("interjection", role="assistant")), "role", id="an interjection of the robot"),
    param(on_frame(0, change(None, role="user")), "role", id="speech of the user"),
    param(on_frame(0, change("vqa", camera=None)), "camera", id="vqa without camera"),
    param(on_frame(0, change("vqa", camera="left")), "camera", id="a camera that does not exist"),
    param(on_frame(40, change("interjection", camera=FRONT)), "camera", id="an interjection with camera"),
    param(on_frame(0, change("vqa", "user", content="")), "content", id="an empty question"),
    param(on_frame(0, change(None, content="hello")), "content", id="speech with content"),
    param(on_frame(0, change(None, tool_calls=None)), "tool-calls", id="no style and no tool call"),
    param(on_frame(0, change(None, tool_calls=call("say", text="a") * 2)), "tool-calls", id="two tool calls"),
    param(on_frame(0, change(None, tool_calls=call("wave"))), "tool-calls", id="a tool info.json lacks"),
    param(on_frame(0, change(None, tool_calls=call("say", text=" "))), "tool-calls", id="nothing said"),
    param(on_frame(0, change(None, tool_calls=[{"name": "say"}])), "tool-calls", id="no function"),
    param(on_frame(0, add(speech_row("again"))), "one-a-frame", id="speech twice on a frame"),
    param(
        on_frame(40, add(event_row("interjection", "user", "stop"), 1)),
        "one-a-frame",
        id="two interjections on a frame",
    ),
    param(on_frame(40, drop(None)), "interjection-speech", id="an interjection that nobody answers"),
    param(
        on_frame(50, lambda rows: rows.extend([speech_row("yes"), event_row("interjection", "user", "a")])),
        "plan-row",
        id="an interjection without plan row",
    ),
    param(on_frame(0, change("vqa", "assistant", content="")), "content", id="an empty answer"),
    param(on_frame(0, drop("vqa", "user")), "vqa-pair", id="an answer without question"),
    param(on_frame(0, drop("vqa", "assistant")), "vqa-pair", id="a question without answer"),
    param(on_frame(0, add(event_row("vqa", "user", "again?", FRONT), 3)), "vqa-pair", id="two questions"),
]

ANSWERS = [
    param(answer("a red block", is_text=True), id="not JSON"),
    param(answer('{"label": "block", "count": 1}', is_text=True), id="keys that are not sorted"),
    param(answer({"colour": "red"}), id="no known shape"),
    param(answer([1]), id="a list"),
    param(answer(box(44, 8, 4, 48)), id="a box that is not ordered"),
    param(answer(box(4, 8, 321, 48)), id="a box wider than the image"),
    param(answer(box(4, 8, 44, 241)), id="a box higher than the image"),
    param(answer(box(-1, 8, 44, 48)), id="a box left of the image"),
    param(answer(box(4, 8, 44, 48, label=" ")), id="a box without label"),
    param(answer({"detections": [{"label": "block", "bbox": [4, 8, 44, 48]}]}), id="no format"),
    param(answer({"label": "block", "point_format": "xy", "point": [24, 300]}), id="a point below the image"),
    param(answer({"label": "block", "count": -1}), id="a negative count"),
    param(answer({"label": "block", "attribute": "colour", "value": ""}), id="an empty value"),
    param(answer({"subject": "a", "relation": "beside", "object": "b"}), id="an unknown relation"),
]

WARNINGS = [
    param(
        on_each_frame(0, change("memory", timestamp=float(pa.scalar(59 / 30, pa.float32()).as_py()))),
        "memory-time",
        id="memory where no subtask starts",
    ),
    param(
        on_each_frame(0, change("task_aug", content="Shift the block.")), "task-aug-twice", id="a task twice"
    ),
    param(on_frame(50, add(speech_row("by the way"))), "speech-alone", id="speech out of nowhere"),
]


def found_by(dataset: Path, severity: str) -> set[str]:
    return {problem.rule for problem in validate_dataset(dataset) if problem.severity == severity}


def test_a_dataset_annotated_by_hand_is_valid(valid: Path) -> None:
    assert validate_dataset(valid) == []


@pytest.mark.parametrize(("damage", "rule"), [*FILES, *PERSISTENT, *EVENTS])
def test_each_damage_is_found_by_its_rule(damage: Damage, rule: str, valid: Path, tmp_path: Path) -> None:
    dataset = copy_dataset(valid, tmp_path / "damaged")
    damage(dataset)
    assert rule in found_by(dataset, "error")


@pytest.mark.parametrize("damage", ANSWERS)
def test_each_unusable_answer_is_found_where_it_stands(damage: Damage, valid: Path, tmp_path: Path) -> None:
    dataset = copy_dataset(valid, tmp_path / "damaged")
    damage(dataset)
    found = [(problem.rule, problem.episode, problem.frame) for problem in validate_dataset(dataset)]
    assert found == [("vqa-answer", 0, 0)]


@pytest.mark.parametrize(("damage", "rule"), WARNINGS)
def test_what_is_hardly_meant_is_a_warning(damage: Damage, rule: str, valid: Path, tmp_path: Path) -> None:
    dataset = copy_dataset(valid, tmp_path / "odd")
    damage(dataset)
    assert found_by(dataset, "warning") == {rule}


def test_a_dataset_without_annotations_is_not_valid() -> None:
    assert {"features", "tools", "column-missing"} <= found_by(REFERENCE, "error")


@pytest.mark.parametrize(
    "prepare", [lambda p: None, lambda p: p.mkdir()], ids=["no folder", "an empty folder"]
)
def test_what_is_no_dataset_is_said_not_raised(prepare: Damage, tmp_path: Path) -> None:
    prepare(tmp_path / "nothing")
    assert found_by(tmp_path / "nothing", "error") == {"info"}


def test_a_problem_says_where_it_is(valid: Path, tmp_path: Path) -> None:
    dataset = copy_dataset(valid, tmp_path / "damaged")
    on_frame(0, change("vqa", camera="left"))(dataset)
    text = "\n".join(str(problem) for problem in validate_dataset(dataset))
    assert (
        f"error [camera] episode 0, frame 0, vqa: camera is 'left', expected one of {[FRONT, WRIST]}" in text
    )
