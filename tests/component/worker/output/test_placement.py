"""Folders that are built beside their place and renamed, on a real file system."""

from pathlib import Path

import pytest

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.output.placement import link_file, partial_folder, put_in_place, recover
from annotationrun_worker.output.record import folder_tree, source_files


def test_a_partial_folder_goes_when_its_work_fails(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with partial_folder(tmp_path / "out") as partial:
            (partial / "half").write_text("done")
            assert [path.name for path in tmp_path.iterdir()] == [partial.name]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_living_merge_keeps_its_partial_folder_when_another_one_starts(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "out") as first, partial_folder(tmp_path / "out") as second:
        recover(tmp_path / "out")
        assert first.is_dir()
        assert second.is_dir()
        assert first != second


def test_what_a_killed_merge_left_goes_but_not_what_belongs_to_another_output(tmp_path: Path) -> None:
    dead, others = tmp_path / ".out[1].partial-00000000", tmp_path / ".out1.partial-00000000"
    dead.mkdir()
    others.mkdir()
    recover(tmp_path / "out[1]")
    assert not dead.exists()
    assert others.exists()


def test_a_folder_that_cannot_be_renamed_into_place_leaves_the_old_one_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("old")
    with pytest.raises(OSError, match="missing"):
        put_in_place(tmp_path / "missing", output)
    assert (output / "old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_never_writes_over_a_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        link_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "two"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "dataset"
    for name in ("meta/info.json", "meta/annotationrun.json", "data/a.parquet", "videos/c/v.mp4", ".git/HEAD",
                 ".gitattributes", "README.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_a_dataset_is_its_files_without_hidden_folders_and_our_record(dataset: Path) -> None:
    names = [name for name, _ in source_files(dataset)]
    assert names == [".gitattributes", "README.md", "data/a.parquet", "meta/info.json", "videos/c/v.mp4"]


def test_a_linked_folder_belongs_to_the_dataset_and_a_circle_is_an_error(
    dataset: Path, tmp_path: Path
) -> None:
    (dataset / "videos").rename(tmp_path / "elsewhere")
    (dataset / "videos").symlink_to(tmp_path / "elsewhere")
    assert "videos/c/v.mp4" in [name for name, _ in source_files(dataset)]
    (dataset / "data/again").symlink_to(dataset)
    with pytest.raises(DatasetError, match="lies in"):
        source_files(dataset)


@pytest.mark.parametrize(
    ("name", "content", "differs"),
    [
        pytest.param(
            "data/a.parquet", "DATA/a.parquet", True, id="other bytes of the same size in a data file"
        ),
        pytest.param("meta/info.json", "META/info.json", True, id="other bytes of the same size in metadata"),
        pytest.param("videos/c/v.mp4", "longer than before", True, id="a video of another size"),
        pytest.param("meta/annotationrun.json", "{}", False, id="our own record"),
        pytest.param(".git/HEAD", "other", False, id="a hidden folder"),
    ],
)
def test_the_identity_of_a_folder_follows_its_content(
    name: str, content: str, differs: bool, dataset: Path
) -> None:
    before = folder_tree(dataset).marks
    (dataset / name).write_text(content)
    assert (folder_tree(dataset).marks != before) is differs
