"""The record of a merge: which merge made a folder, and whether the folder is still what it was then."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from annotationrun_worker.errors import OutputError
from annotationrun_worker.output.record import (
    RECORD_BYTES_LIMIT,
    RECORD_NAME,
    MergeRecord,
    RecordedModel,
    changed_file,
    known_record,
    mark_files,
    merge_digest,
    read_record,
    record_of_changed,
)

FILES = {
    "meta/info.json": "{}",
    "data/chunk-000/file-000.parquet": "rows",
    "videos/top/file-000.mp4": "pictures",
}
MERGE = {"results": {3: {"plan": "k1", "vqa": "k2"}}, "source_identity": "s", "publishing": {"rows": "Keep"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder as a merge leaves it."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    record = MergeRecord("d" * 64, {"vqa": "s" * 64}, mark_files(tmp_path), failed_episodes=(3,))
    (tmp_path / RECORD_NAME).write_bytes(record.to_bytes())
    return tmp_path


def changed(root: Path) -> str | None:
    record = read_record(root)
    assert record is not None
    return changed_file(root, record)


def test_a_record_is_read_as_it_was_written(root: Path) -> None:
    record = read_record(root)
    assert record == MergeRecord("d" * 64, {"vqa": "s" * 64}, mark_files(root), failed_episodes=(3,))
    assert set(record.files) == set(FILES)
    assert record.files["videos/top/file-000.mp4"] == len(FILES["videos/top/file-000.mp4"])


def test_the_models_of_each_module_are_recorded_and_a_record_without_any_is_as_before(root: Path) -> None:
    record = read_record(root)
    assert record is not None
    assert b"models" not in record.to_bytes()
    models = {"vqa": (RecordedModel("org/vl", "main"), RecordedModel("org/vl", "main", "c" * 40))}
    (root / RECORD_NAME).write_bytes(replace(record, models=models).to_bytes())
    assert read_record(root) == replace(record, models=models)


def test_a_folder_that_nobody_touched_is_as_its_record_says(root: Path) -> None:
    assert changed(root) is None


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda root: (root / "notes.txt").write_text("mine"), "notes.txt", id="put beside"),
        pytest.param(lambda root: (root / ".git").mkdir(), ".git", id="a hidden folder"),
        pytest.param(lambda root: (root / "meta/info.json").unlink(), "meta/info.json", id="gone"),
        pytest.param(
            lambda root: (root / "meta/info.json").write_text("[]"), "meta/info.json", id="of equal length"
        ),
        pytest.param(
            lambda root: (root / "videos/top/file-000.mp4").write_text("cut"),
            "videos/top/file-000.mp4",
            id="a video of another length",
        ),
    ],
)
def test_what_somebody_did_to_the_folder_is_named(damage, found: str, root: Path) -> None:
    damage(root)
    assert changed(root) == found


def test_a_link_in_place_of_a_file_is_not_the_file(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "info.json"
    shutil.move(root / "meta/info.json", elsewhere)
    (root / "meta/info.json").symlink_to(elsewhere)
    assert changed(root) == "meta/info.json"


def test_a_folder_without_a_record_is_of_no_merge(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


def test_a_record_that_somebody_edited_is_refused(root: Path) -> None:
    path = root / RECORD_NAME
    path.write_bytes(path.read_bytes().replace(b'"failedEpisodes"', b' "failedEpisodes"'))
    with pytest.raises(OutputError, match="not the bytes that a merge writes"):
        read_record(root)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"formatVersion": ' + "[" * 100_000 + "]" * 100_000 + "}", id="deeply nested"),
        pytest.param(
            '{"formatVersion": 5, "mergeDigest": 1, "settings": 1, "files": 1, "failedEpisodes": [], '
            '"results": []}',
            id="results that are a list",
        ),
        pytest.param("[]", id="a list"),
        pytest.param("{", id="cut off"),
    ],
)
def test_a_record_that_is_none_is_refused_by_name(root: Path, content: str) -> None:
    (root / RECORD_NAME).write_text(content, encoding="utf-8")
    with pytest.raises(OutputError, match=r"annotationrun\.json is not the record of a merge"):
        known_record(root)


def test_a_record_of_gigabytes_is_not_read(root: Path) -> None:
    with (root / RECORD_NAME).open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(OutputError, match=f"more than {RECORD_BYTES_LIMIT} bytes"):
        read_record(root)


def test_a_record_counts_in_place_only_as_long_as_all_files_are_those_it_names(root: Path) -> None:
    marks = mark_files(root)
    assert record_of_changed(root, marks) == read_record(root)
    assert record_of_changed(root, {**marks, "meta/info.json": "0" * 64}) is None
    assert record_of_changed(root, {**marks, "meta/more.json": "0" * 64}) is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"results": {3: {"plan": "k1", "vqa": "k3"}}}, id="another result"),
        pytest.param({"results": {4: {"plan": "k1", "vqa": "k2"}}}, id="of another episode"),
        pytest.param({"results": {3: {"plan": "k1"}}}, id="one less"),
        pytest.param({"source_identity": "t"}, id="another source"),
        pytest.param({"publishing": {"rows": "Replace"}}, id="published otherwise"),
    ],
)
def test_whatever_makes_another_dataset_is_another_merge(change) -> None:
    assert merge_digest(**MERGE) == merge_digest(**MERGE)
    assert merge_digest(**(MERGE | change)) != merge_digest(**MERGE)
