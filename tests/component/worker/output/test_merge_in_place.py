"""Changing a dataset in place: real parquet and files, held against what a merge into a new folder gives."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.annotated_dataset import copy_dataset, data_paths, edit_json
from tests.support.checkout import REFERENCE
from tests.support.file_trees import tree, written_at
from tests.support.image_dataset import FRONT, write_image_dataset
from tests.support.staged_results import Results, merge_plan

from annotationrun_worker import fault_points
from annotationrun_worker.errors import DatasetError, OutputError, StorageError
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.merge import MergeResult, merge_to_folder
from annotationrun_worker.output.place import check_output
from annotationrun_worker.output.record import read_record, source_identity

RECORD = "meta/annotationrun.json"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return copy_dataset(REFERENCE, tmp_path / "dataset")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def change(dataset: Path, results: Results, **changes: object) -> MergeResult:
    """One command: what is looked at before the first question, then the merge."""
    check_output(dataset, dataset, overwrite=True)
    return merge_to_folder(merge_plan(dataset, dataset, results, overwrite=True, **changes))


def of_modules(results: Results, *modules: str) -> Results:
    return {key: rows for key, rows in results.items() if key.partition("/")[2] in modules}


def with_other_answers(results: Results) -> Results:
    """As another setting of the module would give them: half of the pairs."""
    vqa = of_modules(results, "vqa")
    return {f"{key}/edited": [row for row in rows if row.frame % 60 == 0] for key, rows in vqa.items()}


def without_record(dataset: Path) -> dict[str, str]:
    return {name: mark for name, mark in tree(dataset).items() if name != RECORD}


def test_the_files_are_those_of_a_merge_into_a_new_folder(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))

    result = change(dataset, results)

    assert without_record(dataset) == without_record(tmp_path / "out")
    assert validate_dataset(dataset) == []
    assert (result.unchanged, result.files_written, result.files_linked) == (False, 5, 0)


def test_only_files_that_change_are_written_and_nothing_else_is_touched(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    (dataset / ".git").mkdir()
    (dataset / ".git/HEAD").write_text("mine")
    (dataset / "notes").mkdir()
    (dataset / "notes/link").symlink_to("../README.md")
    (dataset / "README.md").write_text("mine")
    before, old = written_at(dataset), tree(dataset)

    change(dataset, results)

    after = written_at(dataset)
    files = {name for name in old if after[name] != before[name]}
    assert files == {"meta/info.json", *(str(path.relative_to(dataset)) for path in data_paths(dataset))}
    assert after.keys() - before.keys() == {RECORD}
    assert (dataset / "notes/link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_the_same_again_writes_nothing(dataset: Path, results: Results) -> None:
    first = change(dataset, results)
    before = written_at(dataset / "meta") | written_at(dataset / "data")

    again = change(dataset, results)

    assert (again.unchanged, again.files_written, again.bytes_written) == (True, 0, 0)
    assert again.digest == first.digest
    assert written_at(dataset / "meta") | written_at(dataset / "data") == before


def test_our_own_writing_is_no_new_source_and_somebody_elses_is(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    before = source_identity(dataset, dataset)
    change(dataset, results)
    assert source_identity(dataset, dataset) == before
    assert source_identity(dataset, tmp_path / "out") != before

    edit_json(dataset / "meta/info.json", lambda info: info.update(robot_type="another"))

    assert source_identity(dataset, dataset) != before
    assert not change(dataset, results).unchanged
    assert change(dataset, results).unchanged


def test_an_edited_module_replaces_its_own_rows_and_going_back_gives_the_same_bytes(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    change(dataset, results, settings_digests={"vqa": "first"})
    first = tree(dataset)

    edited = change(dataset, {**results, **with_other_answers(results)}, settings_digests={"vqa": "edited"})

    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", {**results, **with_other_answers(results)}))
    assert edited.files_written == 4
    assert without_record(dataset) == without_record(tmp_path / "out") != first
    change(dataset, results, settings_digests={"vqa": "first"})
    assert tree(dataset) == first


def test_modules_may_come_one_after_the_other(dataset: Path, results: Results, tmp_path: Path) -> None:
    change(dataset, of_modules(results, "vqa"))
    change(dataset, of_modules(results, "plan", "interjections"))

    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))
    assert without_record(dataset) == without_record(tmp_path / "out")


def test_a_file_whose_rows_stay_is_not_written(
    dataset: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(dataset, results)
    reached: list[FaultPoint] = []
    monkeypatch.setattr(fault_points, "listener", reached.append)
    before = written_at(dataset / "data")
    fewer = {key: rows for key, rows in with_other_answers(results).items() if key == "5/vqa/edited"}

    result = change(dataset, {**results, **fewer}, settings_digests={"vqa": "edited"})

    after = written_at(dataset / "data")
    assert {name for name in after if after[name] != before[name]} == {
        "chunk-000",
        "chunk-000/file-002.parquet",
    }
    assert result.files_written == 2
    assert reached.count(FaultPoint.BEFORE_DATA_FILE) == 1  # the others were not even written to compare


def test_kept_rows_are_kept_and_a_rerun_which_has_no_results_then_writes_nothing(
    dataset: Path, results: Results
) -> None:
    change(dataset, results, existing_rows="Keep")
    first = tree(dataset)

    nothing_to_do = change(dataset, {}, existing_rows="Keep")
    others = change(dataset, with_other_answers(results), existing_rows="Keep")

    assert (nothing_to_do.unchanged, nothing_to_do.files_written) == (True, 0)
    assert others.unchanged
    assert tree(dataset) == first


def test_episodes_that_fail_no_more_are_taken_off_the_record(dataset: Path, results: Results) -> None:
    some = {key: rows for key, rows in results.items() if not key.startswith("3/")}
    change(dataset, some, failed_episodes=[3])
    assert read_record(dataset).failed_episodes == (3,)  # type: ignore[union-attr]

    change(dataset, results)

    assert read_record(dataset).failed_episodes == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("one_row_group", [False, True], ids=["a row group an episode", "one row group"])
def test_pictures_in_the_rows_pass_through_and_a_file_of_ours_is_not_written_again(
    one_row_group: bool, results: Results, tmp_path: Path
) -> None:
    source = write_image_dataset(tmp_path / "source", {FRONT: "image"}, one_row_group=one_row_group)
    rows: Results = {"1/plan": [StagedRow(0, "assistant", "subtask", "push")]}
    merge_to_folder(merge_plan(source, tmp_path / "out", rows))
    dataset = copy_dataset(source, tmp_path / "dataset")
    change(dataset, rows)
    first = tree(dataset)
    (dataset / RECORD).unlink()  # so that it is not known whose file it is, and it is written to compare

    again = change(dataset, rows)

    assert without_record(dataset) == without_record(tmp_path / "out")
    assert again.files_written == 1
    assert without_record(dataset) == {name: mark for name, mark in first.items() if name != RECORD}


def test_a_result_that_would_not_be_valid_changes_nothing(dataset: Path) -> None:
    before = tree(dataset)
    with pytest.raises(OutputError, match="subtask-cover"):
        change(dataset, {"0/plan": [StagedRow(5, "assistant", "subtask", "late")]})
    assert tree(dataset) == before
    assert not (dataset / ".annotationrun").exists()


def test_a_file_that_is_changed_while_its_rows_are_made_is_not_overwritten(
    dataset: Path, results: Results
) -> None:
    def read_rows(key: str) -> Sequence[StagedRow]:
        edit_json(dataset / "meta/info.json", lambda info: info.update(robot_type=key))
        return results[key]

    before = {name: mark for name, mark in tree(dataset).items() if name != "meta/info.json"}
    with pytest.raises(OutputError, match=r"info\.json was changed by somebody else"):
        change(dataset, results, read_rows=read_rows)

    assert {name: mark for name, mark in tree(dataset).items() if name != "meta/info.json"} == before
    assert not (dataset / ".annotationrun").exists()


def test_without_overwrite_the_source_is_refused_as_output(dataset: Path, results: Results) -> None:
    before = tree(dataset)
    with pytest.raises(OutputError, match=r"spec\.output\.overwrite: true"):
        check_output(dataset, dataset)
    with pytest.raises(OutputError, match=r"spec\.output\.overwrite: true"):
        merge_to_folder(merge_plan(dataset, dataset, results))
    assert tree(dataset) == before


def test_a_foreign_folder_is_refused_with_overwrite_too(dataset: Path, results: Results) -> None:
    before = tree(dataset)
    with pytest.raises(OutputError, match="make it source and output"):
        merge_to_folder(merge_plan(REFERENCE, dataset, results, overwrite=True))
    assert tree(dataset) == before


def test_a_dataset_that_was_changed_in_place_is_never_replaced_as_a_whole(
    dataset: Path, results: Results
) -> None:
    change(dataset, results)
    before = tree(dataset)
    for overwrite in (False, True):
        plan = merge_plan(REFERENCE, dataset, of_modules(results, "vqa"), overwrite=overwrite)
        with pytest.raises(OutputError, match="changed in place, which is never replaced"):
            merge_to_folder(plan)
    assert tree(dataset) == before


def test_a_merged_folder_can_be_changed_in_place(results: Results, tmp_path: Path) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, of_modules(results, "plan", "interjections")))

    change(output, of_modules(results, "vqa"))

    merge_to_folder(merge_plan(REFERENCE, tmp_path / "at_once", results))
    assert without_record(output) == without_record(tmp_path / "at_once")


def test_the_record_of_another_version_is_replaced(dataset: Path, results: Results) -> None:
    change(dataset, results)
    first = tree(dataset)
    edit_json(dataset / RECORD, lambda record: record.update(formatVersion=1))

    change(dataset, results)

    assert without_record(dataset) == {name: mark for name, mark in first.items() if name != RECORD}
    assert read_record(dataset) is not None


def test_files_outside_of_the_folder_are_refused_before_anything_is_done(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    (dataset / "data").rename(tmp_path / "elsewhere")
    (dataset / "data").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="name a new folder as output"):
        check_output(dataset, dataset, overwrite=True)
    with pytest.raises(OutputError, match="name a new folder as output"):
        merge_to_folder(merge_plan(dataset, dataset, results, overwrite=True))
    assert tree(tmp_path) == before


def test_linked_files_as_the_hubs_cache_has_them_become_files_and_their_blobs_stay(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    blob = tmp_path / "blob"
    path = data_paths(dataset)[0]
    path.rename(blob)
    path.symlink_to(os.path.relpath(blob, path.parent))
    content = blob.read_bytes()

    change(dataset, results)

    assert not path.is_symlink()
    assert blob.read_bytes() == content
    assert validate_dataset(dataset) == []


def test_a_damaged_dataset_stays_as_it_is(dataset: Path, results: Results) -> None:
    path = data_paths(dataset)[1]
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-500])
    before = tree(dataset)
    with pytest.raises(DatasetError, match=r"file-001\.parquet can't be read"):
        change(dataset, results)
    assert tree(dataset) == before


@pytest.mark.needs_root
def test_a_full_disk_leaves_the_dataset_as_it_was(results: Results, small_disk: Path) -> None:
    dataset = copy_dataset(REFERENCE, small_disk / "dataset")
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filling").write_bytes(bytes(max(0, free - 20_000)))
    before = tree(dataset)
    with pytest.raises(StorageError, match="No space left"):
        change(dataset, results)
    assert tree(dataset) == before
    assert not (dataset / ".annotationrun").exists()

    (small_disk / "filling").unlink()
    change(dataset, results)
    assert validate_dataset(dataset) == []


def test_merges_into_one_dataset_at_once_all_end_well(
    dataset: Path, results: Results, tmp_path: Path
) -> None:
    plans = [
        merge_plan(dataset, dataset, of_modules(results, *modules), overwrite=True)
        for modules in (("vqa",), ("plan", "interjections"))
    ]
    with ThreadPoolExecutor() as pool:
        merged = list(pool.map(merge_to_folder, [*plans, replace(plans[0])]))

    assert sum(result.unchanged for result in merged) <= 1
    merge_to_folder(merge_plan(REFERENCE, tmp_path / "out", results))
    assert without_record(dataset) == without_record(tmp_path / "out")
    assert not (dataset / ".annotationrun").exists()
