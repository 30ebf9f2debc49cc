"""Rows and columns that were there before a merge: what survives, in which form, and what goes."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    copy_dataset,
    data_paths,
    edit_json,
    event_row,
    persistent_row,
    read_language,
    write_language,
    write_table,
)
from tests.support.checkout import REFERENCE
from tests.support.staged_results import Results, merge_plan

from annotationrun_worker.errors import ConfigurationError, DatasetError, OutputError
from annotationrun_worker.language.rows import StagedRow, say_call
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.drop import DropPlan, drop_modules
from annotationrun_worker.output.merge import merge_to_folder

LANGUAGE = ["language_persistent", "language_events"]
CAMERA = "observation.images.front"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_dataset(REFERENCE, tmp_path / "source")


def test_rows_lerobot_wrote_survive_with_their_official_types(
    source: Path, by_hand: Path, results: Results, tmp_path: Path
) -> None:
    """LeRobot's writer lets Arrow infer the types, and leaves `list<null>` where a file has no rows."""
    for path, annotated in zip(data_paths(source), data_paths(by_hand), strict=True):
        table = pq.read_table(path)
        file = read_language(annotated)
        for column, as_python in zip(LANGUAGE, (file.persistent, file.events), strict=True):
            if path.name == "file-002.parquet":
                table = table.append_column(column, pa.array([[] for _ in as_python]))
            else:
                table = table.append_column(column, pa.array(as_python))
        write_table(table, path)
    inferred = pq.read_schema(data_paths(source)[0])
    assert inferred.field("language_persistent").type.value_type.field("timestamp").type == pa.float64()
    assert pa.types.is_struct(
        inferred.field("language_events").type.value_type.field("tool_calls").type.value_type
    )
    assert pa.types.is_null(pq.read_schema(data_paths(source)[2]).field("language_events").type.value_type)
    vqa_of_last = {"5/vqa": results["5/vqa"]}

    merge_to_folder(merge_plan(source, tmp_path / "out", vqa_of_last))

    assert validate_dataset(tmp_path / "out") == []
    merged = data_paths(tmp_path / "out")
    for path, annotated in zip(merged[:2], data_paths(by_hand)[:2], strict=True):
        assert read_language(path).persistent == read_language(annotated).persistent
        assert read_language(path).events == read_language(annotated).events
    events = pq.read_table(merged[2])["language_events"].to_pylist()
    assert sum(len(rows) for rows in events) == len(results["5/vqa"])


def test_null_padded_keys_of_tool_calls_are_dropped(source: Path, results: Results, tmp_path: Path) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    wave = {"type": "function", "function": {"name": "wave", "arguments": {"times": 2}}}
    empty = {"role": "assistant", "content": None, "style": None, "camera": None}
    rows: list[list[dict[str, object]]] = [[] for _ in range(table.num_rows)]
    rows[0] = [empty | {"tool_calls": [say_call("hello")]}]
    rows[7] = [empty | {"tool_calls": [wave]}]
    table = table.append_column("language_persistent", pa.array([[] for _ in rows]))
    write_table(table.append_column("language_events", pa.array(rows)), path)
    padded = pq.read_table(path)["language_events"].to_pylist()[7][0]["tool_calls"][0]
    assert padded["function"]["arguments"] == {"text": None, "times": 2}
    edit_json(source / "meta/info.json", lambda info: info.update(tools=[{"function": {"name": "wave"}}]))

    merge_to_folder(merge_plan(source, tmp_path / "out", {"5/plan": results["5/plan"]}))

    events = pq.read_table(data_paths(tmp_path / "out")[0])["language_events"].to_pylist()
    assert json.loads(events[7][0]["tool_calls"][0]) == wave
    assert json.loads(events[0][0]["tool_calls"][0]) == say_call("hello")


def test_columns_that_the_language_replaces_go_with_their_metadata(
    source: Path, results: Results, tmp_path: Path
) -> None:
    for path in data_paths(source):
        table = pq.read_table(path)
        table = table.add_column(1, "subtask_index", pa.array([0] * table.num_rows))
        write_table(table.add_column(3, "tools", pa.array(["[]"] * table.num_rows)), path)
    for name in ("info", "stats"):

        def add(content: dict[str, object], name: str = name) -> None:
            target = content["features"] if name == "info" else content
            target.update(subtask_index={"dtype": "int64"}, tools={"dtype": "string"})  # type: ignore[attr-defined]

        edit_json(source / f"meta/{name}.json", add)

    merge_to_folder(merge_plan(source, tmp_path / "out", results))

    assert validate_dataset(tmp_path / "out") == []
    expected = [*pq.read_schema(data_paths(REFERENCE)[0]).names, *LANGUAGE]
    assert pq.read_schema(data_paths(tmp_path / "out")[0]).names == expected
    info = json.loads((tmp_path / "out/meta/info.json").read_bytes())
    stats = json.loads((tmp_path / "out/meta/stats.json").read_bytes())
    assert {"subtask_index", "tools"}.isdisjoint(info["features"].keys() | stats.keys())


def test_rows_of_the_source_that_stay_are_reported_not_refused(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    bad = json.dumps({"detections": [{"bbox": [0, 0, 999, 999], "bbox_format": "xyxy", "label": "block"}]})
    source = copy_dataset(by_hand, tmp_path / "source")
    file = read_language(data_paths(source)[0])
    file.events[3] = [event_row("vqa", "assistant", bad, CAMERA), event_row("vqa", "user", "where?", CAMERA)]
    write_language(file)
    chosen = {key: results[key] for key in ("0/plan", "0/interjections")}

    result = merge_to_folder(merge_plan(source, tmp_path / "out", chosen))

    found = [(problem.rule, problem.episode, problem.frame) for problem in result.surviving_problems]
    assert found == [("vqa-answer", 0, 3)]
    rows = [StagedRow(3, "user", "vqa", "where?", CAMERA), StagedRow(3, "assistant", "vqa", bad, CAMERA)]
    with pytest.raises(OutputError, match="outside of the image"):
        merge_to_folder(merge_plan(source, tmp_path / "other", {"0/vqa": rows}))


ADVANTAGE, REASONING = "advantage", "reasoning"
"""Styles of other tools, one of them with a row on each frame."""


def add_rows_of_others(dataset: Path) -> None:
    """A persistent row of episode 0 at no frame's time, and an event on each frame of the first file."""
    file = read_language(data_paths(dataset)[0])
    reasoning = persistent_row(REASONING, 0.01, "the block is near", role="tool") | {"camera": "gone"}
    file.persistent = [
        sorted([*rows, reasoning], key=lambda row: row["timestamp"]) if episode == 0 else rows
        for rows, episode in zip(file.persistent, file.episodes, strict=True)
    ]
    advantage = [event_row(ADVANTAGE, "assistant", f"{number / 7}") for number in range(len(file.events))]
    file.events = [[row, *rows] for row, rows in zip(advantage, file.events, strict=True)]
    write_language(file)


def rows_of_others(dataset: Path) -> list[list[dict[str, object]]]:
    file = read_language(data_paths(dataset)[0])
    return [
        [row for row in rows if row["style"] in {ADVANTAGE, REASONING}]
        for rows in (*file.persistent, *file.events)
    ]


def test_rows_of_styles_that_we_do_not_know_stay_as_they_are(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    source = copy_dataset(by_hand, tmp_path / "source")
    add_rows_of_others(source)
    theirs = rows_of_others(source)
    assert sum(map(len, theirs)) > len(read_language(data_paths(source)[0]).events)

    result = merge_to_folder(merge_plan(source, tmp_path / "out", results))

    assert rows_of_others(tmp_path / "out") == theirs
    found = {(problem.rule, problem.severity, problem.style) for problem in result.surviving_problems}
    assert found == {("style", "warning", ADVANTAGE), ("style", "warning", REASONING)}
    drop_modules(
        DropPlan(tmp_path / "out", tmp_path / "dropped", frozenset({"plan", "interjections", "vqa"}))
    )
    assert rows_of_others(tmp_path / "dropped") == theirs


def test_rows_in_json_text_are_read(by_hand: Path, results: Results, tmp_path: Path) -> None:
    source = copy_dataset(by_hand, tmp_path / "source")
    for path in data_paths(source):
        file, table = read_language(path), pq.read_table(path)
        for column, values in zip(LANGUAGE, (file.persistent, file.events), strict=True):
            texts = [json.dumps(rows) if rows else None for rows in values]
            place = table.column_names.index(column)
            table = table.set_column(place, column, pa.array(texts, pa.string()))
        write_table(table, path)

    merge_to_folder(merge_plan(source, tmp_path / "out", {"5/vqa": results["5/vqa"]}))

    assert validate_dataset(tmp_path / "out") == []
    for merged, expected in zip(data_paths(tmp_path / "out"), data_paths(by_hand), strict=True):
        assert read_language(merged).persistent == read_language(expected).persistent
        assert read_language(merged).events == read_language(expected).events


def test_events_with_a_time_of_their_own_are_read(by_hand: Path, results: Results, tmp_path: Path) -> None:
    """As LeRobot's dataset visualizer exports them, with all rows in one row group."""
    source = copy_dataset(by_hand, tmp_path / "source")
    for path in data_paths(source):
        file, table = read_language(path), pq.read_table(path)
        times = table["timestamp"].to_pylist()
        timed = [
            [row | {"timestamp": time} for row in rows] for rows, time in zip(file.events, times, strict=True)
        ]
        table = table.set_column(table.column_names.index(LANGUAGE[1]), LANGUAGE[1], pa.array(timed))
        pq.write_table(table, path)
        assert pq.read_metadata(path).num_row_groups == 1

    merge_to_folder(merge_plan(source, tmp_path / "out", {"5/vqa": results["5/vqa"]}))

    assert validate_dataset(tmp_path / "out") == []
    for merged, expected in zip(data_paths(tmp_path / "out"), data_paths(by_hand), strict=True):
        assert read_language(merged).events == read_language(expected).events


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[", "not a row of 'language_events'", id="no JSON"),
        pytest.param('{"role": "user"}', "expected a list", id="no list"),
        pytest.param('["grasp"]', "'grasp', expected a struct", id="no struct"),
        pytest.param('[{"role": "user", "score": 1}]', "the fields .'score'., which", id="an unknown field"),
    ],
)
def test_json_text_that_holds_something_else_is_refused(
    text: str, says: str, source: Path, results: Results, tmp_path: Path
) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    write_table(table.append_column(LANGUAGE[1], pa.array([text] * table.num_rows)), path)
    with pytest.raises(DatasetError, match=says):
        merge_to_folder(merge_plan(source, tmp_path / "out", {"5/vqa": results["5/vqa"]}))


@pytest.mark.parametrize("name", ["meta/lerobot_annotations.json", "meta/annotations/ownership/0.json"])
def test_what_speaks_of_other_rows_is_left_out(
    name: str, source: Path, results: Results, tmp_path: Path
) -> None:
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_text("{}")
    (source / "meta/annotations.md").write_text("ours")
    merge_to_folder(merge_plan(source, tmp_path / "out", {"5/vqa": results["5/vqa"]}))
    assert not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out/meta/annotations.md").read_text() == "ours"


def test_new_subtasks_under_interjections_that_stay_are_refused(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    plan_alone = {"0/plan": results["0/plan"]}
    with pytest.raises(ConfigurationError, match=r"episode 0 has interjections.*output\.existingRows"):
        merge_to_folder(merge_plan(by_hand, tmp_path / "out", plan_alone))
    assert list(tmp_path.iterdir()) == []


def test_keep_changes_no_row_of_a_module_that_has_rows_there(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    emptied: Results = {"0/plan": [], "0/vqa": []}

    merge_to_folder(merge_plan(by_hand, tmp_path / "out", emptied, existing_rows="Keep"))

    for expected, merged in zip(data_paths(by_hand), data_paths(tmp_path / "out"), strict=True):
        for column in LANGUAGE:
            assert pq.read_table(merged)[column].equals(pq.read_table(expected)[column])
