"""The journal of a merge in place: which one counts, and what it may name."""

import json
from pathlib import Path

import pytest

from annotationrun_worker.errors import OutputError
from annotationrun_worker.output.in_place import (
    Rename,
    check_untouched,
    discard,
    read_journal,
    recover_in_place,
    write_journal,
)
from annotationrun_worker.staging.digests import digest_bytes, digest_json

OLD, NEW = digest_bytes(b"old"), digest_bytes(b"new")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one file, and a new one for its place."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a").write_text("old")
    (tmp_path / ".annotationrun/new/data").mkdir(parents=True)
    (tmp_path / ".annotationrun/new/data/a").write_text("new")
    return tmp_path


def test_a_journal_is_read_as_it_was_written(root: Path) -> None:
    renames = [Rename("data/a", NEW, OLD), Rename("data/ñ", NEW, None)]
    write_journal(root, renames)
    assert read_journal(root) == renames


def test_the_files_take_their_places_and_nothing_is_left(root: Path) -> None:
    write_journal(root, [Rename("data/a", NEW, OLD)])
    recover_in_place(root)
    assert (root / "data/a").read_text() == "new"
    assert [path.name for path in root.iterdir()] == ["data"]


def cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut, id="cut off"),
        pytest.param(lambda text: text.replace("data/a", "data/b"), id="a byte changed"),
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda _: "[]", id="another JSON"),
        pytest.param(lambda _: '{"renames": [{"path": "data/a"}]}', id="without a digest"),
    ],
)
def test_a_journal_that_is_not_whole_does_not_count_and_goes(damage, root: Path) -> None:
    write_journal(root, [Rename("data/a", NEW, OLD)])
    path = root / ".annotationrun/journal.json"
    path.write_text(damage(path.read_text()))

    assert read_journal(root) is None
    recover_in_place(root)

    assert (root / "data/a").read_text() == "old"
    assert [path.name for path in root.iterdir()] == ["data"]


@pytest.mark.parametrize("path", ["../victim", "/victim", "link/victim"], ids=["above", "absolute", "linked"])
def test_a_journal_never_leads_out_of_the_dataset(path: str, root: Path) -> None:
    outside = root.with_name(f"{root.name}-outside")
    outside.mkdir()
    (root / "link").symlink_to(outside)
    body = [{"path": path, "new": NEW, "old": None}]
    content = {"renames": body, "sha256": digest_json(body)}
    (root / ".annotationrun/journal.json").write_text(json.dumps(content))

    with pytest.raises(OutputError, match=r"outside of|leads out of"):
        recover_in_place(root)

    assert list(outside.iterdir()) == []


def test_a_new_file_that_is_lost_is_named(root: Path) -> None:
    write_journal(root, [Rename("data/a", NEW, OLD)])
    (root / ".annotationrun/new/data/a").write_text("damaged")
    with pytest.raises(OutputError, match="has lost its new file"):
        recover_in_place(root)
    assert (root / "data/a").read_text() == "old"


def test_a_file_that_somebody_changed_is_not_overwritten_and_the_journal_stays(root: Path) -> None:
    write_journal(root, [Rename("data/a", NEW, OLD)])
    (root / "data/a").write_text("another's")
    with pytest.raises(OutputError, match="was changed by somebody else"):
        recover_in_place(root)
    assert (root / "data/a").read_text() == "another's"
    assert (root / ".annotationrun/new/data/a").read_text() == "new"
    assert read_journal(root) == [Rename("data/a", NEW, OLD)]


def test_what_a_killed_merge_had_done_already_is_left_and_the_rest_is_done(root: Path) -> None:
    (root / ".annotationrun/new/data/a").rename(root / "data/a")
    (root / ".annotationrun/new/data/b").write_text("new")
    write_journal(root, [Rename("data/a", NEW, OLD), Rename("data/b", NEW, None)])
    recover_in_place(root)
    assert [(root / name).read_text() for name in ("data/a", "data/b")] == ["new", "new"]
    assert [path.name for path in root.iterdir()] == ["data"]


@pytest.mark.parametrize("change", [lambda path: path.write_text("another's"), Path.unlink])
def test_what_somebody_changed_before_the_journal_is_seen(change, root: Path) -> None:
    check_untouched(root, [Rename("data/a", NEW, OLD), Rename("data/b", NEW, None)])
    change(root / "data/a")
    with pytest.raises(OutputError, match="data/a was changed by somebody else"):
        check_untouched(root, [Rename("data/a", NEW, OLD)])


def test_a_folder_of_that_name_with_other_things_keeps_them(root: Path) -> None:
    (root / ".annotationrun/mine").write_text("mine")
    write_journal(root, [Rename("data/a", NEW, OLD)])
    recover_in_place(root)
    discard(root)
    assert [path.name for path in (root / ".annotationrun").iterdir()] == ["mine"]
