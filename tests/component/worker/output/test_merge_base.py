"""A merge over an output that is there: whatever it does not make stays, and what goes is told."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    copy_dataset,
    data_paths,
    event_row,
    read_language,
    write_language,
    write_table,
)
from tests.support.checkout import REFERENCE
from tests.support.staged_results import Results, merge_plan

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.drop import DropPlan, drop_modules
from annotationrun_worker.output.merge import merge_to_folder
from annotationrun_worker.output.record import RecordedModel, read_record

EVERY = frozenset({"plan", "interjections", "vqa"})


def of(results: Results, *modules: str, episodes: str = "012345") -> Results:
    chosen = {key: rows for key, rows in results.items() if key[0] in episodes}
    return {key: rows for key, rows in chosen.items() if key.split("/")[1] in modules}


def rows_of(dataset: Path) -> list[object]:
    """Every row of every frame."""
    files = [read_language(path) for path in data_paths(dataset)]
    return [rows for file in files for rows in (*file.persistent, *file.events)]


def event_styles(dataset: Path) -> list[str | None]:
    files = map(read_language, data_paths(dataset))
    return [row["style"] for file in files for rows in file.events for row in rows]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_dataset(REFERENCE, tmp_path / "source")


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(lambda results: of(results, *EVERY, episodes="2"), id="fewer episodes"),
        pytest.param(lambda results: of(results, "plan"), id="fewer modules"),
        pytest.param(lambda results: of(results, "vqa", episodes="04"), id="fewer of both"),
        pytest.param(lambda results: {}, id="nothing"),
    ],
)
def test_a_smaller_merge_of_the_same_results_changes_nothing(
    second, results: Results, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first = merge_to_folder(merge_plan(REFERENCE, output, results))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = merge_to_folder(merge_plan(REFERENCE, output, second(results)))
    assert (again.unchanged, again.digest) == (True, first.digest)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_modules_and_episodes_may_come_one_after_the_other(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for part in (
        of(results, "vqa"),
        of(results, "plan", "interjections", episodes="015"),
        of(results, "plan", "interjections", episodes="234"),
    ):
        assert not merge_to_folder(merge_plan(REFERENCE, output, part)).unchanged
    assert rows_of(output) == rows_of(by_hand)
    assert validate_dataset(output) == []
    whole = merge_to_folder(merge_plan(REFERENCE, tmp_path / "whole", results))
    assert merge_to_folder(merge_plan(REFERENCE, output, results)).digest == whole.digest
    record = read_record(output)
    assert record is not None
    assert record.labelled_episodes == {"plan": 6, "interjections": 6, "vqa": 6}
    assert {(i, module) for i, keys in record.results.items() for module in keys} == {
        (int(key[0]), key.split("/")[1]) for key in results
    }


def test_the_record_names_the_models_of_all_rows_that_are_there(results: Results, tmp_path: Path) -> None:
    output = tmp_path / "out"
    one, two = RecordedModel("org/vl", "main", "1" * 40), RecordedModel("org/vl", "main", "2" * 40)

    def models_after(part: Results, model: RecordedModel) -> object:
        assert not merge_to_folder(merge_plan(REFERENCE, output, part, model=model)).unchanged
        record = read_record(output)
        assert record is not None
        return record.models

    def made_by_two(part: Results) -> Results:
        return {f"{key}/2": rows for key, rows in part.items()}

    assert models_after(of(results, "vqa"), one) == {"vqa": (one,)}
    assert models_after(of(results, "plan", "interjections"), two) == {
        "plan": (two,),
        "interjections": (two,),
        "vqa": (one,),
    }
    some, rest = (made_by_two(of(results, "vqa", episodes=episodes)) for episodes in ("01", "2345"))
    assert models_after(some, two) == {"plan": (two,), "interjections": (two,), "vqa": (one, two)}
    assert models_after({**some, **rest}, two) == {"plan": (two,), "interjections": (two,), "vqa": (two,)}
    drop_modules(DropPlan(output, output, frozenset({"vqa"})))
    dropped = read_record(output)
    assert dropped is not None
    assert dropped.models == {"plan": (two,), "interjections": (two,)}


def test_rows_of_other_tools_in_the_output_stay(results: Results, source: Path, tmp_path: Path) -> None:
    """They were in the source, which has lost them since."""
    with_theirs = copy_dataset(source, tmp_path / "theirs")
    for path in data_paths(with_theirs):
        table = pq.read_table(path)
        rows = [[event_row("advantage", "assistant", "0.5")]] * table.num_rows
        table = table.append_column("language_persistent", pa.array([[] for _ in rows]))
        write_table(table.append_column("language_events", pa.array(rows)), path)
    output = tmp_path / "out"
    merge_to_folder(merge_plan(with_theirs, output, of(results, "vqa", episodes="0")))
    merge_to_folder(merge_plan(source, output, of(results, "vqa")))
    styles = [
        row["style"] for file in map(read_language, data_paths(output)) for e in file.events for row in e
    ]
    assert styles.count("advantage") == sum(pq.read_table(path).num_rows for path in data_paths(source))
    assert styles.count("vqa") == sum(len(rows) for rows in of(results, "vqa").values())


def test_an_episode_that_is_another_one_starts_anew_and_what_goes_is_told(
    results: Results, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(source, output, results))
    path = data_paths(source)[0]
    table = pq.read_table(path)
    place, column = table.column_names.index("action"), table["action"].to_pylist()
    assert table["episode_index"][0].as_py() == 0
    column[0] = [value + 1 for value in column[0]]
    write_table(
        table.set_column(place, table.schema.field(place), pa.array(column, table.schema.field(place).type)),
        path,
    )

    with caplog.at_level(logging.WARNING):
        merge_to_folder(merge_plan(source, output, of(results, "vqa", episodes="05")))

    lost = [record.getMessage() for record in caplog.records if "loses" in record.getMessage()]
    assert {line.rsplit("' ", 1)[1] for line in lost} == {"of the episodes 0"}
    assert {line.split("'")[1] for line in lost} == {
        "subtask", "plan", "memory", "task_aug", "interjection", "speech"
    }  # fmt: skip
    merged = read_language(data_paths(output)[0])
    assert {row["style"] for place in merged.frames_of(0) for row in merged.persistent[place]} == set()
    assert {row["style"] for place in merged.frames_of(1) for row in merged.persistent[place]} != set()
    record = read_record(output)
    assert record is not None
    assert record.results[0] == {"vqa": "0/vqa"}
    assert record.results[1].keys() == EVERY
    assert record.labelled_episodes == {"plan": 5, "interjections": 5, "vqa": 6}


def test_an_episode_with_nan_in_a_column_is_the_same_and_one_with_another_index_is(
    results: Results, source: Path, tmp_path: Path
) -> None:
    for path in data_paths(source):
        table = pq.read_table(path)
        nan = pa.array([float("nan")] * table.num_rows)
        lists = pa.array([[float("nan"), 1.0]] * table.num_rows)
        write_table(table.append_column("force", nan).append_column("torque", lists), path)
    output = tmp_path / "out"
    merge_to_folder(merge_plan(source, output, results))
    for path in data_paths(source):
        table = pq.read_table(path)
        place = table.column_names.index("index")
        write_table(table.set_column(place, "index", pa.array(range(7, 7 + table.num_rows))), path)
    before = rows_of(output)
    again = merge_to_folder(merge_plan(source, output, of(results, "vqa", episodes="1")))
    assert not again.unchanged
    assert rows_of(output) == before


def test_rows_that_were_dropped_stay_dropped(results: Results, tmp_path: Path) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, results))
    drop_modules(DropPlan(output, tmp_path / "less", frozenset({"vqa"})))
    record = read_record(tmp_path / "less")
    assert record is not None
    assert {module for keys in record.results.values() for module in keys} == {"plan", "interjections"}
    assert record.labelled_episodes == {"plan": 6, "interjections": 6}
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "less", of(results, "plan", "interjections")))
    styles = {
        row["style"]
        for file in map(read_language, data_paths(tmp_path / "less"))
        for e in file.events
        for row in e
    }
    assert styles == {"interjection", None}


def test_subtasks_that_are_the_same_may_be_merged_under_interjections_that_stay(
    results: Results, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, of(results, "plan", "interjections")))
    plan = of(results, "plan")
    assert merge_to_folder(merge_plan(REFERENCE, output, plan)).unchanged
    other = {f"{key}/other": rows for key, rows in plan.items()}
    with pytest.raises(ConfigurationError, match=r"has interjections that belong to its present subtasks"):
        merge_to_folder(merge_plan(REFERENCE, output, other))


def test_keep_protects_rows_that_no_result_of_ours_made(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    first = of(results, "vqa", episodes="0")
    merge_to_folder(merge_plan(REFERENCE, output, first, existing_rows="Keep"))
    fewer = {f"{key}/other": [row for row in rows if row.frame == 0] for key, rows in first.items()}
    assert 0 < sum(map(len, fewer.values())) < sum(map(len, first.values()))
    merge_to_folder(merge_plan(REFERENCE, output, fewer, existing_rows="Keep"))
    assert len(event_styles(output)) == sum(map(len, fewer.values())), "ours were replaced"
    merge_to_folder(merge_plan(by_hand, tmp_path / "kept", {}, existing_rows="Keep"))
    merge_to_folder(merge_plan(by_hand, tmp_path / "kept", fewer, existing_rows="Keep"))
    assert rows_of(tmp_path / "kept") == rows_of(by_hand), "theirs were kept"


def test_episodes_that_the_source_no_longer_has_go_and_are_told(
    results: Results, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(source, output, of(results, "vqa")))
    last = data_paths(source)[-1]
    assert set(read_language(data_paths(output)[-1]).episodes) == {5}
    last.unlink()
    table = pq.read_table(source / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(table.slice(0, 5), source / "meta/episodes/chunk-000/file-000.parquet")
    info = json.loads((source / "meta/info.json").read_text())
    (source / "meta/info.json").write_text(json.dumps(info | {"total_episodes": 5}))

    with caplog.at_level(logging.WARNING):
        merge_to_folder(merge_plan(source, output, of(results, "vqa", episodes="0")))

    count = len(results["5/vqa"])
    assert [r.getMessage() for r in caplog.records] == [
        f"the output loses {count} rows 'vqa' of the episodes 5"
    ]
    record = read_record(output)
    assert record is not None
    assert sorted(record.results) == [0, 1, 2, 3, 4]
    assert record.labelled_episodes == {"vqa": 5}


def test_a_row_that_was_edited_in_the_output_is_never_overwritten(results: Results, tmp_path: Path) -> None:
    """Whoever changes an output has it refused: see the tests of outputs that are not ours."""
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, of(results, "vqa")))
    file = read_language(data_paths(output)[0])
    file.events[0] = []
    write_language(file)
    edited = data_paths(output)[0].read_bytes()
    with pytest.raises(Exception, match="was changed since it was merged"):
        merge_to_folder(merge_plan(REFERENCE, output, of(results, "plan", "interjections")))
    assert data_paths(output)[0].read_bytes() == edited
