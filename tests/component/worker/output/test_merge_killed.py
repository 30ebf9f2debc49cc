"""A merge that is killed at each of its fault points: what is there then, and that a plain rerun mends it."""

from pathlib import Path

import pytest
from tests.support.annotated_dataset import copy_dataset
from tests.support.checkout import REFERENCE
from tests.support.file_trees import tree
from tests.support.killed_merge import merge_killed_at
from tests.support.staged_results import Results, merge_plan

from annotationrun_worker.errors import DatasetError, OutputError
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.language.show import row_counts
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.merge import merge_to_folder
from annotationrun_worker.output.place import check_output
from annotationrun_worker.output.record import RECORD_NAME

Tree = dict[str, str]

BUILDING = [
    (FaultPoint.BEFORE_DATA_FILE, 1),
    (FaultPoint.BEFORE_DATA_FILE, 3),
    (FaultPoint.BEFORE_METADATA, 1),
    (FaultPoint.BEFORE_METADATA, 2),
]
PLACING = [(FaultPoint.BEFORE_OUTPUT_RENAME, 1), (FaultPoint.AFTER_OUTPUT_RENAME, 1)]
ASIDE = [(FaultPoint.BEFORE_OUTPUT_ASIDE, 1)]
RENAMING = [
    (FaultPoint.AFTER_JOURNAL, 1),
    (FaultPoint.BEFORE_FILE_RENAME, 1),
    (FaultPoint.BEFORE_FILE_RENAME, 2),
    (FaultPoint.BEFORE_FILE_RENAME, 4),
    (FaultPoint.BEFORE_FILE_RENAME, 5),
    (FaultPoint.AFTER_FILE_RENAMES, 1),
]
"""Five files change in place: three data files, info.json and the record."""


def cases(points: list[tuple[FaultPoint, int]]) -> list[object]:
    return [pytest.param(point, hit, id=f"{point.value} ({hit})") for point, hit in points]


@pytest.fixture(scope="module")
def undisturbed(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    merge_to_folder(merge_plan(REFERENCE, output, results))
    return tree(output)


@pytest.fixture(scope="module")
def undisturbed_in_place(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    dataset = copy_dataset(REFERENCE, tmp_path_factory.mktemp("in_place") / "dataset")
    merge_again(dataset, dataset, results)
    return tree(dataset)


def merge_again(source: Path, output: Path, results: Results) -> None:
    check_output(source, output, overwrite=True)
    merge_to_folder(merge_plan(source, output, results, overwrite=True))


def test_the_tables_hold_every_fault_point_of_a_merge() -> None:
    in_order = list(FaultPoint)
    first, last = map(in_order.index, (FaultPoint.BEFORE_DATA_FILE, FaultPoint.AFTER_FILE_RENAMES))
    of_tables = {point for point, _ in [*BUILDING, *PLACING, *ASIDE, (FaultPoint.MID_JOURNAL, 1), *RENAMING]}
    assert of_tables == set(in_order[first : last + 1])


@pytest.mark.parametrize(("point", "hit"), cases([*BUILDING, *PLACING]))
def test_a_new_folder_is_whole_or_not_there(
    point: FaultPoint, hit: int, by_hand: Path, results: Results, undisturbed: Tree, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    merge_killed_at(point, hit, REFERENCE, output, by_hand)
    assert tree(output) == (undisturbed if point == FaultPoint.AFTER_OUTPUT_RENAME else {})

    merge_again(REFERENCE, output, results)

    assert tree(output) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("point", "hit"), cases([*BUILDING, *ASIDE, *PLACING]))
def test_a_folder_that_is_replaced_is_always_whole(
    point: FaultPoint, hit: int, by_hand: Path, results: Results, undisturbed: Tree, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    merge_to_folder(merge_plan(REFERENCE, output, {"0/vqa": results["0/vqa"]}))
    before = tree(output)
    merge_killed_at(point, hit, REFERENCE, output, by_hand)
    if point == FaultPoint.BEFORE_OUTPUT_RENAME:
        assert not output.exists()
        (aside,) = tmp_path.glob(".out.replaced-*")
        assert tree(aside) == before
    else:
        assert tree(output) == (undisturbed if point == FaultPoint.AFTER_OUTPUT_RENAME else before)

    merge_again(REFERENCE, output, results)

    assert tree(output) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("point", "hit"), cases([*BUILDING, (FaultPoint.MID_JOURNAL, 1), *RENAMING]))
def test_in_place_each_file_is_old_or_new_and_all_are_old_until_the_journal_is_whole(
    point: FaultPoint, hit: int, by_hand: Path, results: Results, undisturbed_in_place: Tree, tmp_path: Path
) -> None:
    dataset = copy_dataset(REFERENCE, tmp_path / "dataset")
    before = tree(dataset)
    merge_killed_at(point, hit, dataset, dataset, by_hand)
    found = {name: mark for name, mark in tree(dataset).items() if not name.startswith(".annotationrun/")}
    old = sum(found.get(name) == before.get(name) for name in undisturbed_in_place)
    new = sum(found.get(name) == mark for name, mark in undisturbed_in_place.items())
    changing = sum(before.get(name) != mark for name, mark in undisturbed_in_place.items())
    renamed = {FaultPoint.BEFORE_FILE_RENAME: hit - 1, FaultPoint.AFTER_FILE_RENAMES: changing}.get(point, 0)
    total = len(undisturbed_in_place)
    assert (changing, old, new) == (5, total - renamed, total - changing + renamed)

    merge_again(dataset, dataset, results)

    assert tree(dataset) == undisturbed_in_place
    assert not (dataset / ".annotationrun").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.fixture
def half_renamed(by_hand: Path, tmp_path: Path) -> Path:
    """Killed when two of three data files had their places."""
    dataset = copy_dataset(REFERENCE, tmp_path / "dataset")
    merge_killed_at(FaultPoint.BEFORE_FILE_RENAME, 3, dataset, dataset, by_hand)
    return dataset


def test_validate_and_show_say_that_a_merge_is_not_complete(half_renamed: Path) -> None:
    assert validate_dataset(half_renamed)[0].rule == "unfinished"
    with pytest.raises(DatasetError, match="not complete"):
        row_counts(half_renamed)


def test_a_merge_into_another_folder_completes_its_source_first(
    half_renamed: Path, results: Results, undisturbed_in_place: Tree, tmp_path: Path
) -> None:
    merge_to_folder(merge_plan(half_renamed, tmp_path / "out", results))

    assert tree(half_renamed) == undisturbed_in_place
    assert validate_dataset(tmp_path / "out") == []


def test_a_merge_that_nothing_was_looked_at_before_completes_it_too(
    half_renamed: Path, results: Results, undisturbed_in_place: Tree
) -> None:
    merge_to_folder(merge_plan(half_renamed, half_renamed, results, overwrite=True))

    assert validate_dataset(half_renamed) == []
    found = tree(half_renamed)
    assert all(found[name] == mark for name, mark in undisturbed_in_place.items() if name != RECORD_NAME)


@pytest.mark.parametrize(
    "name",
    ["data/chunk-000/file-000.parquet", "data/chunk-000/file-002.parquet", "meta/info.json"],
    ids=["a file that had its place", "a file that had not", "metadata"],
)
def test_a_file_that_somebody_changed_meanwhile_is_named_and_nothing_is_overwritten(
    name: str, half_renamed: Path, results: Results, undisturbed_in_place: Tree
) -> None:
    right = (half_renamed / name).read_bytes()
    (half_renamed / name).unlink()
    (half_renamed / name).write_bytes(b"mine")
    (half_renamed / ".annotationrun/lock").unlink()  # goes with whoever takes it next
    before = tree(half_renamed)

    for output in (half_renamed, half_renamed.with_name("out")):
        with pytest.raises(OutputError, match=f"{name} was changed by somebody else"):
            merge_again(half_renamed, output, results)
        assert tree(half_renamed) == before

    (half_renamed / name).write_bytes(right)
    merge_again(half_renamed, half_renamed, results)
    assert tree(half_renamed) == undisturbed_in_place


def test_what_the_message_says_to_remove_can_be_removed(
    half_renamed: Path, results: Results, tmp_path: Path, undisturbed_in_place: Tree
) -> None:
    for path in sorted((half_renamed / ".annotationrun").rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    (half_renamed / ".annotationrun").rmdir()

    merge_again(half_renamed, half_renamed, results)

    assert validate_dataset(half_renamed) == []
    found = tree(half_renamed)
    assert all(found[name] == mark for name, mark in undisturbed_in_place.items() if name != RECORD_NAME)
