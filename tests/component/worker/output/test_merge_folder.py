"""Merging into a folder: real parquet and files, held against a dataset annotated by hand."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import (
    copy_dataset,
    data_paths,
    persistent_row,
    read_language,
    write_table,
)
from tests.support.checkout import REFERENCE
from tests.support.staged_results import Results, merge_plan

from annotationrun_worker.errors import DatasetError, OutputError, StagingError
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.merge import build_merged, merge_to_folder
from annotationrun_worker.output.placement import output_lock
from annotationrun_worker.output.record import folder_tree

LANGUAGE = ["language_persistent", "language_events"]
CAMERA = "observation.images.front"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_dataset(REFERENCE, tmp_path / "source")


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def language_lists(dataset: Path, column: str) -> list[list[dict[str, object]]]:
    return [rows for path in data_paths(dataset) for rows in pq.read_table(path)[column].to_pylist()]


def test_the_merged_columns_are_those_annotated_by_hand(
    by_hand: Path, results: Results, tmp_path: Path
) -> None:
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))

    for expected, merged in zip(data_paths(by_hand), data_paths(tmp_path / "out"), strict=True):
        assert pq.read_schema(merged).equals(pq.read_schema(expected))
        of_hand, of_merge = read_language(expected), read_language(merged)
        assert of_merge.persistent == of_hand.persistent
        assert of_merge.events == of_hand.events
    assert validate_dataset(tmp_path / "out") == []


def test_other_columns_and_files_pass_through_untouched(results: Results, tmp_path: Path) -> None:
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))

    for before, after in zip(data_paths(REFERENCE), data_paths(tmp_path / "out"), strict=True):
        old, new = pq.read_table(before), pq.read_table(after)
        assert new.column_names == [*old.column_names, *LANGUAGE]
        assert new.drop_columns(LANGUAGE).equals(old)
        assert b"huggingface" in pq.read_schema(before).metadata
        assert b"huggingface" not in (pq.read_schema(after).metadata or {})
    old_files, new_files = snapshot(REFERENCE), snapshot(tmp_path / "out")
    assert new_files.keys() - old_files.keys() == {"meta/annotationrun.json"}
    assert old_files.keys() <= new_files.keys()
    changed = {name for name in old_files if new_files[name] != old_files[name]}
    assert changed == {
        "meta/info.json",
        *(str(path.relative_to(REFERENCE)) for path in data_paths(REFERENCE)),
    }


def test_each_episode_is_one_snappy_row_group(results: Results, tmp_path: Path) -> None:
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))

    for path in data_paths(tmp_path / "out"):
        metadata = pq.ParquetFile(path).metadata
        episodes = pq.read_table(path)["episode_index"].to_pylist()
        sizes = [episodes.count(episode) for episode in sorted(set(episodes))]
        assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == sizes
        codecs = {metadata.row_group(0).column(column).compression for column in range(metadata.num_columns)}
        assert codecs == {"SNAPPY"}


def test_a_source_with_one_big_row_group_gives_the_same_rows(
    source: Path, results: Results, tmp_path: Path
) -> None:
    for path in data_paths(source):
        table = pq.read_table(path)
        path.unlink()
        pq.write_table(table, path)
        assert pq.ParquetFile(path).num_row_groups == 1

    merge_to_folder(merge_plan(source, tmp_path / "out", results))
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "expected", results))

    for one, other in zip(data_paths(tmp_path / "out"), data_paths(tmp_path / "expected"), strict=True):
        assert pq.read_table(one).equals(pq.read_table(other))
    assert validate_dataset(tmp_path / "out") == []


def test_files_the_selection_never_touched_have_both_columns_too(results: Results, tmp_path: Path) -> None:
    chosen = {key: rows for key, rows in results.items() if key.startswith("0/")}

    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", chosen))

    assert validate_dataset(tmp_path / "out") == []
    first, *others = data_paths(tmp_path / "out")
    assert all(pq.read_schema(path).equals(pq.read_schema(first)) for path in others)
    assert len(others) == 2
    assert any(pq.read_table(first)["language_events"].to_pylist())
    assert all(rows == [] for path in others for rows in pq.read_table(path)["language_events"].to_pylist())


def test_two_merges_of_the_same_rows_give_the_same_bytes(results: Results, tmp_path: Path) -> None:
    first = merge_to_folder(merge_plan(REFERENCE, tmp_path / "one", results))
    second = merge_to_folder(merge_plan(REFERENCE, tmp_path / "two", results))

    assert first.digest == second.digest
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_merge_that_is_there_already_writes_nothing(results: Results, tmp_path: Path) -> None:
    plan = merge_plan(REFERENCE, tmp_path / "out", results)
    first = merge_to_folder(plan)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    again = merge_to_folder(plan)

    assert not first.unchanged
    assert first.bytes_written > 0
    assert (again.unchanged, again.files_written, again.bytes_written) == (True, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def test_an_output_of_an_earlier_merge_is_replaced_and_nothing_is_left_beside(
    results: Results, tmp_path: Path
) -> None:
    fewer = {key: rows for key, rows in results.items() if not key.endswith("/vqa")}
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", fewer))

    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))

    assert any(rows for rows in language_lists(tmp_path / "out", "language_events"))
    assert validate_dataset(tmp_path / "out") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_videos_are_hard_links_and_never_symbolic_ones(
    source: Path, results: Results, tmp_path: Path
) -> None:
    video = min(source.glob("videos/*/*/*.mp4"))
    blob = tmp_path / "blob"
    video.rename(blob)
    video.symlink_to(os.path.relpath(blob, video.parent))  # as the Hub's cache has them

    result = merge_to_folder(merge_plan(source, tmp_path / "out", results))

    merged = tmp_path / "out" / video.relative_to(source)
    assert not merged.is_symlink()
    assert merged.stat().st_ino == blob.stat().st_ino
    assert result.files_linked == 4
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))


def test_videos_are_copied_where_no_link_can_be(results: Results, tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm") / f"annotationrun-{os.getpid()}"
    assert Path("/dev/shm").stat().st_dev != REFERENCE.stat().st_dev, "needs two file systems"
    try:
        result = merge_to_folder(merge_plan(REFERENCE, elsewhere, results))
        assert result.files_linked == 0
        assert validate_dataset(elsewhere) == []
        before, after = snapshot(REFERENCE / "videos"), snapshot(elsewhere / "videos")
        assert before == after
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def foreign_file(output: Path) -> None:
    output.mkdir()
    (output / "thesis.txt").write_text("mine")


def edited_after_the_merge(output: Path) -> None:
    with (output / "meta/info.json").open("a") as file:
        file.write(" ")


def added_after_the_merge(output: Path) -> None:
    (output / "README.md").write_text("notes")


def hidden_after_the_merge(output: Path) -> None:
    (output / ".git").mkdir()
    (output / ".git/HEAD").write_text("ref: refs/heads/mine")


def hidden_and_empty_after_the_merge(output: Path) -> None:
    (output / ".cache/huggingface").mkdir(parents=True)


def linked_after_the_merge(output: Path) -> None:
    (output / "notes").symlink_to("/nowhere")


def edited_to_the_same_size(output: Path) -> None:
    path = output / "meta/info.json"
    path.write_bytes(path.read_bytes().replace(b'"fps": 30', b'"fps": 31', 1))


def data_edited_to_the_same_size(output: Path) -> None:
    path = data_paths(output)[0]
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def removed_after_the_merge(output: Path) -> None:
    min(output.glob("videos/*/*/*.mp4")).unlink()


@pytest.mark.parametrize(
    ("prepare", "merged_before", "match"),
    [
        pytest.param(foreign_file, False, "no merge made", id="a folder of somebody's files"),
        pytest.param(edited_after_the_merge, True, "info.json", id="a merged file was edited"),
        pytest.param(added_after_the_merge, True, "README.md", id="a file was added to a merged folder"),
        pytest.param(hidden_after_the_merge, True, r"'\.git/HEAD'", id="a repository of git was made in it"),
        pytest.param(hidden_and_empty_after_the_merge, True, r"'\.cache/huggingface'", id="an empty folder"),
        pytest.param(linked_after_the_merge, True, "'notes'", id="a link"),
        pytest.param(edited_to_the_same_size, True, "'meta/info.json'", id="metadata of the same size"),
        pytest.param(data_edited_to_the_same_size, True, "'data/chunk", id="a data file of the same size"),
        pytest.param(removed_after_the_merge, True, "mp4", id="a video was removed from a merged folder"),
    ],
)
def test_an_output_that_is_not_ours_is_refused_and_left_alone(
    prepare, merged_before: bool, match: str, results: Results, tmp_path: Path
) -> None:
    plan = merge_plan(REFERENCE, tmp_path / "out", results)
    if merged_before:
        merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", {"0/vqa": results["0/vqa"]}))
    prepare(plan.output)
    before = snapshot(plan.output)
    entries = sorted(plan.output.rglob("*"))

    with pytest.raises(OutputError, match=match):
        merge_to_folder(plan)

    assert snapshot(plan.output) == before
    assert sorted(plan.output.rglob("*")) == entries


@pytest.mark.parametrize("inside", ["", "nested/out"], ids=["the source itself", "a folder in the source"])
def test_an_output_in_the_source_is_refused(inside: str, source: Path, results: Results) -> None:
    before = snapshot(source)
    with pytest.raises(OutputError, match="name another output"):
        merge_to_folder(merge_plan(source, source / inside, results))
    assert snapshot(source) == before


def row(
    frame: int, style: str | None, role: str = "assistant", content: str | None = "x", **more: object
) -> StagedRow:
    return StagedRow(frame, role, style, content, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "rows", "error", "match"),
    [
        pytest.param("0/plan", [row(120, "subtask")], StagingError, "frame 120", id="a frame past the end"),
        pytest.param("0/plan", [row(0, "vqa")], StagingError, "'vqa'", id="a row of another module's style"),
        pytest.param("0/plan", [row(0, "motion")], StagingError, "'motion'", id="a style no module makes"),
        pytest.param(
            "0/plan", [row(0, "subtask", content="\ud800")], StagingError, "UTF-8", id="half a letter"
        ),
        pytest.param("0/plan", [row(5, "subtask")], OutputError, "subtask-cover", id="a late start"),
        pytest.param("0/vqa", [row(0, "vqa", camera=CAMERA)], OutputError, "not JSON", id="not JSON"),
        pytest.param("9/plan", [row(0, "subtask")], DatasetError, r"\[9\]", id="no such episode"),
    ],
)
def test_rows_that_do_not_fit_stop_the_merge_and_leave_the_output_as_it_was(
    key: str, rows: list[StagedRow], error: type[Exception], match: str, results: Results, tmp_path: Path
) -> None:
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))
    before = snapshot(tmp_path)

    with pytest.raises(error, match=match):
        merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", {**results, f"{key}/bad": rows}))

    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def truncate(source: Path) -> None:
    path = data_paths(source)[1]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-500])


def break_a_link(source: Path) -> None:
    video = min(source.glob("videos/*/*/*.mp4"))
    video.unlink()
    video.symlink_to("nowhere")


def rows_apart(source: Path) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    write_table(pa.concat_tables([table.slice(0, 60), table.slice(120), table.slice(60, 60)]), path)


def differing_persistent_rows(source: Path) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    rows = [[persistent_row("subtask", 0.0, "a" if place < 300 else "b")] for place in range(table.num_rows)]
    table = table.append_column("language_persistent", pa.array(rows))
    write_table(table.append_column("language_events", pa.array([[] for _ in rows])), path)


def unknown_field(source: Path) -> None:
    path = data_paths(source)[0]
    table = pq.read_table(path)
    rows = [[persistent_row("subtask", 0.0, "a") | {"confidence": 0.5}] for _ in range(table.num_rows)]
    write_table(table.append_column("language_persistent", pa.array(rows)), path)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        pytest.param(truncate, "file-001.parquet can't be read", id="a truncated data file"),
        pytest.param(break_a_link, "leads nowhere", id="a link that leads nowhere"),
        pytest.param(rows_apart, "apart", id="an episode whose rows lie apart"),
        pytest.param(differing_persistent_rows, "episode 1, frame 180", id="persistent rows that differ"),
        pytest.param(unknown_field, "confidence", id="a field that a rewrite would lose"),
        pytest.param(lambda s: (s / "meta/info.json").unlink(), "info", id="no info.json"),
    ],
)
def test_a_damaged_source_is_named_and_nothing_is_written(
    damage, match: str, source: Path, results: Results, tmp_path: Path
) -> None:
    damage(source)
    with pytest.raises((DatasetError, OutputError), match=match):
        merge_to_folder(merge_plan(source, tmp_path / "out", results))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def without_a_video(source: Path) -> None:
    min(source.glob("videos/*/*/*.mp4")).unlink()


def without_tasks(source: Path) -> None:
    (source / "meta/tasks.parquet").unlink()


@pytest.mark.parametrize("damage", [without_a_video, without_tasks])
def test_what_a_source_lacks_is_a_fault_of_the_dataset_and_not_of_the_output(
    damage, source: Path, results: Results, tmp_path: Path
) -> None:
    damage(source)
    with pytest.raises(DatasetError, match="does not exist"):
        merge_to_folder(merge_plan(source, tmp_path / "out", results))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_goes_while_it_is_merged_for_the_hub_is_a_fault_of_the_dataset(
    source: Path, results: Results, tmp_path: Path
) -> None:
    (tmp_path / "built").mkdir()
    plan = merge_plan(source, tmp_path / "built", results)
    tree = folder_tree(source)
    (source / "meta/info.json").unlink()
    with pytest.raises(DatasetError, match=r"can't read the source.*info\.json"):
        build_merged(plan, tree, is_in_place=False)


def test_an_output_below_a_file_is_no_matter_of_storage(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="run again"):
        merge_to_folder(merge_plan(REFERENCE, tmp_path / "file" / "out", results))


KILLED_MERGE = """
import os, signal, sys
from pathlib import Path
from annotationrun_worker.output import merge as folder
def killed(problems, *_): os.kill(os.getpid(), signal.SIGKILL)
folder.validate_dataset = killed
folder.merge_to_folder(folder.MergePlan(Path(sys.argv[1]), Path(sys.argv[2]), {}, dict().__getitem__, "x"))
"""


def test_a_killed_merge_leaves_the_output_as_it_was_and_the_next_one_cleans_up(
    results: Results, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, {"0/vqa": results["0/vqa"]}))
    before = snapshot(output)

    command = [sys.executable, "-c", KILLED_MERGE, str(REFERENCE), str(output)]
    killed = subprocess.run(command, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert snapshot(output) == before
    assert len([path for path in tmp_path.iterdir() if ".partial-" in path.name]) == 1
    merge_to_folder(merge_plan(REFERENCE, output, results))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_lost_between_two_renames_comes_back(results: Results, tmp_path: Path) -> None:
    plan = merge_plan(REFERENCE, tmp_path / "out", results)
    merge_to_folder(plan)
    before = snapshot(plan.output)
    plan.output.rename(tmp_path / ".out.replaced-0a1b2c3d")

    assert merge_to_folder(plan).unchanged

    assert snapshot(plan.output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED_WHILE_THE_OLD_ONE_IS_DELETED = """
import os, signal, sys
from pathlib import Path
from annotationrun_worker.output import merge as folder
from annotationrun_worker.output import placement
def killed(path, **_):
    (path / "meta/info.json").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
placement.shutil.rmtree = killed
folder.merge_to_folder(folder.MergePlan(Path(sys.argv[1]), Path(sys.argv[2]), {}, dict().__getitem__, "x"))
"""


def test_what_is_left_of_an_output_that_was_being_deleted_never_comes_back(
    results: Results, tmp_path: Path
) -> None:
    plan = merge_plan(REFERENCE, tmp_path / "out", results)
    merge_to_folder(plan)

    command = [sys.executable, "-c", KILLED_WHILE_THE_OLD_ONE_IS_DELETED, str(REFERENCE), str(plan.output)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    shutil.rmtree(plan.output)
    merge_to_folder(plan)

    assert validate_dataset(plan.output) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_merge_waits_for_another_one_into_the_same_output(results: Results, tmp_path: Path) -> None:
    plan = merge_plan(REFERENCE, tmp_path / "out", results)
    with ThreadPoolExecutor() as pool:
        with output_lock(plan.output):
            second = pool.submit(merge_to_folder, plan)
            with pytest.raises(TimeoutError):
                second.result(timeout=2)
            assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]
        assert not second.result(timeout=60).unchanged
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_merges_into_one_output_at_once_all_end_well(results: Results, tmp_path: Path) -> None:
    plans = [merge_plan(REFERENCE, tmp_path / "out", {key: results[key]}) for key in sorted(results)[:4]]
    with ThreadPoolExecutor() as pool:
        merged = list(pool.map(merge_to_folder, plans))
    assert not any(result.unchanged for result in merged)
    assert validate_dataset(tmp_path / "out") == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
