"""Which files a commit adds, copies, fetches and deletes, by table."""

from pathlib import Path

import pytest

from annotationrun_worker.errors import DatasetError, OutputError
from annotationrun_worker.hub.commit import (
    check_not_in_place,
    check_target,
    lacking_file,
    moved_file,
    otherwise_than_recorded,
    plan_commit,
)
from annotationrun_worker.hub.publication import RECORD_NAME, DesiredFile
from annotationrun_worker.hub.repository import HubFile
from annotationrun_worker.output import record as source_files

DATA, INFO, VIDEO = "data/chunk-000/file-000.parquet", "meta/info.json", "videos/top/file-000.mp4"
OLD, NEW = "a" * 64, "b" * 64


def large(path, sha256=OLD, size_bytes=9):
    return HubFile(path, size_bytes, "c" * 40, sha256)


def small(path, blob_id="1" * 40, size_bytes=9):
    return HubFile(path, size_bytes, blob_id, None)


def here(sha256=OLD, size_bytes=9):
    return DesiredFile(size_bytes, sha256, Path("/here"))


def elsewhere(sha256=OLD):
    return DesiredFile(9, sha256)


def listing(*files):
    return {file.path: file for file in files}


def planned(desired, present=(), source=(), blob_id="1" * 40, **options):
    """Uploads, copies, fetches, deletions."""
    plan = plan_commit(
        desired, listing(*present), listing(*source), blob_id_of=lambda path: blob_id, **options
    )
    return list(plan.uploads), list(plan.copies), list(plan.fetches), list(plan.deletions)


PLANS = [
    pytest.param({DATA: here()}, [], [], ([DATA], [], [], []), id="a new file from here is uploaded"),
    pytest.param({DATA: here()}, [large(DATA)], [], ([], [], [], []), id="the same content in LFS stays"),
    pytest.param({DATA: here(NEW)}, [large(DATA)], [], ([DATA], [], [], []), id="other content is uploaded"),
    pytest.param({INFO: here()}, [small(INFO)], [], ([], [], [], []), id="the same regular file stays"),
    pytest.param(
        {INFO: here()}, [small(INFO, "2" * 40)], [], ([INFO], [], [], []), id="another blob is uploaded"
    ),
    pytest.param(
        {INFO: here(size_bytes=8)}, [small(INFO)], [], ([INFO], [], [], []), id="another size is uploaded"
    ),
    pytest.param(
        {VIDEO: elsewhere()}, [], [large(VIDEO)], ([], [VIDEO], [], []), id="LFS at the source is copied"
    ),
    pytest.param(
        {VIDEO: elsewhere()}, [large(VIDEO)], [large(VIDEO)], ([], [], [], []), id="what is copied stays"
    ),
    pytest.param(
        {VIDEO: elsewhere(NEW)},
        [large(VIDEO)],
        [large(VIDEO, NEW)],
        ([], [VIDEO], [], []),
        id="a video that changed at the source is copied over the old one",
    ),
    pytest.param(
        {INFO: elsewhere(None)},
        [],
        [small(INFO)],
        ([], [], [INFO], []),
        id="a regular file at the source only is fetched",
    ),
    pytest.param(
        {INFO: elsewhere(None)},
        [small(INFO)],
        [small(INFO)],
        ([], [], [], []),
        id="a regular file that is there stays",
    ),
    pytest.param(
        {},
        [large(VIDEO), large(DATA), small("images/top/0.png"), small(INFO)],
        [],
        ([], [], [], sorted([DATA, "images/top/0.png", INFO, VIDEO])),
        id="what the dataset no longer has is deleted",
    ),
    pytest.param(
        {},
        [
            small("README.md"),
            small(".gitattributes"),
            small(".cache/data/x"),
            small("LICENSE"),
            small("data"),
        ],
        [],
        ([], [], [], []),
        id="the card, hidden files and what users put beside are not deleted",
    ),
    pytest.param(
        {"README.md": here(), ".gitattributes": here(), ".git/config": here()},
        [],
        [],
        ([], [], [], []),
        id="the card and hidden files of the dataset are not uploaded",
    ),
]


@pytest.mark.parametrize(("desired", "present", "source", "expected"), PLANS)
def test_a_plan_of_a_commit(desired, present, source, expected):
    assert planned(desired, present, source) == expected


def test_in_place_nothing_is_deleted():
    assert planned({}, [large(DATA)], is_in_place=True) == ([], [], [], [])


def test_a_file_that_is_nowhere_is_an_error():
    with pytest.raises(DatasetError, match=r"neither on this machine nor"):
        planned({VIDEO: elsewhere()})


EMPTY = [small(".gitattributes"), small("README.md")]


@pytest.mark.parametrize(
    ("present", "source"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(EMPTY, None, id="a card and attributes alone"),
        pytest.param([*EMPTY, large(DATA)], [large(DATA)], id="a branch that is still as the source"),
        pytest.param([large(DATA), small("LICENSE")], [large(DATA)], id="the source and a file beside"),
    ],
)
def test_a_target_that_may_be_written(present, source):
    check_target({DATA: here()}, listing(*present), None if source is None else listing(*source))


MADE = [*EMPTY, large(DATA), small(INFO), large(VIDEO), small(RECORD_NAME)]
MARKS = {DATA: OLD, INFO: NEW, VIDEO: 9}


@pytest.mark.parametrize(
    ("present", "marks", "changed"),
    [
        pytest.param(MADE, MARKS, None, id="as it was written"),
        pytest.param([*MADE, small("LICENSE")], MARKS, None, id="and a file beside the dataset"),
        pytest.param([*MADE, large("data/more.parquet")], MARKS, "data/more.parquet", id="and a new file"),
        pytest.param([large(DATA, NEW), *MADE[3:]], MARKS, DATA, id="with other labels"),
        pytest.param(MADE, {**MARKS, VIDEO: 8}, VIDEO, id="with a video of another size"),
        pytest.param(MADE, {**MARKS, "meta/gone": OLD}, "meta/gone", id="without a file"),
        pytest.param(MADE, None, RECORD_NAME, id="with a record that names no files"),
    ],
)
def test_a_merged_dataset_without_a_commit_of_ours_is_what_its_record_says(present, marks, changed):
    """Its history was squashed, say; the listing tells no SHA-256 of files outside of LFS."""
    assert otherwise_than_recorded(marks, listing(*present)) == changed
    if changed is None:
        check_target({DATA: here()}, listing(*present), None, marks)
        return
    with pytest.raises(OutputError, match=rf"changed since: '{changed}'"):
        check_target({DATA: here()}, listing(*present), None, marks)


def test_a_dataset_that_was_annotated_in_place_is_never_replaced():
    check_not_in_place({})
    check_not_in_place({"sourceIdentity": None})
    with pytest.raises(OutputError, match=r"annotated in place"):
        check_not_in_place({"sourceIdentity": OLD})


@pytest.mark.parametrize(
    ("present", "source"),
    [
        pytest.param([*EMPTY, large(DATA)], None, id="a dataset that no merge made"),
        pytest.param([*EMPTY, small("train.csv")], None, id="any other file"),
        pytest.param([large(DATA, NEW)], [large(DATA)], id="a branch with other data than the source"),
    ],
)
def test_a_target_of_somebody_else_is_refused(present, source):
    with pytest.raises(OutputError, match=r"no merge made, such as '(data|train)"):
        check_target({DATA: here()}, listing(*present), None if source is None else listing(*source))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([large(DATA)], [large(DATA)], None, id="nothing"),
        pytest.param([large(DATA)], [large(DATA, NEW)], DATA, id="a data file changed"),
        pytest.param([large(DATA)], [], DATA, id="a data file deleted"),
        pytest.param([], [small("meta/new.json")], "meta/new.json", id="a file added to the metadata"),
        pytest.param([small("README.md")], [small("README.md", "2" * 40)], None, id="the card"),
        pytest.param([], [small("LICENSE")], None, id="a file beside the dataset"),
        pytest.param([], [small("notes.txt")], "notes.txt", id="a file beside that would be written"),
        pytest.param([small(INFO)], [large(INFO)], INFO, id="a file moved into LFS"),
    ],
)
def test_what_others_changed_that_counts(before, after, expected):
    assert moved_file({"notes.txt": here()}, listing(*before), listing(*after)) == expected


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        pytest.param([large(DATA, NEW), large(VIDEO)], None, id="whole"),
        pytest.param([large(DATA, NEW)], VIDEO, id="a file is missing"),
        pytest.param([large(DATA), large(VIDEO)], DATA, id="a file is the old one"),
        pytest.param([large(DATA, NEW), large(VIDEO, NEW)], VIDEO, id="a video is another"),
        pytest.param([large(DATA, NEW, 8), large(VIDEO)], DATA, id="a file is shorter"),
    ],
)
def test_a_commit_that_lacks_a_file(present, expected):
    desired = {"README.md": here(), DATA: here(NEW), VIDEO: elsewhere(None)}
    assert lacking_file(desired, listing(large(VIDEO)), listing(*present)) == expected


def test_the_record_has_the_name_that_a_merge_gives_it():
    assert RECORD_NAME == source_files.RECORD_NAME
