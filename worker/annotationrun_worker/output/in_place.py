"""A merge in place, and the journal by which one that was killed is completed.

The journal of a merge in place: which files take which places. Once it is there, the merge will be done.

All new files lie complete in ``.annotationrun/new`` of the dataset, named by their paths. The journal lists
each with its SHA-256, and with that of the file whose place it takes; it is hashed itself, and renamed to its
name when it is durable. What is killed before then has changed nothing, and is thrown away; what is killed
after it is rolled forward by the next command. A file that has its place already is left there.

A dataset that is changed in place: new files beside the old ones, a journal, then renames.

``.annotationrun/new`` becomes the dataset as it shall be: files that change are written there, all others are
symbolic links to what is there. It is validated; then the new files take their places by the journal. Videos
and files that don't change are never touched, and nothing is deleted but what was replaced.

While the files take their places, a reader sees old and new ones together. That matters in the first merge
alone, when files without the language columns stand beside files with them; ``info.json`` names the columns
only once they are in all.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from annotationrun_worker.dataset.layout import MERGE_JOURNAL, OUR_FOLDER, has_journal
from annotationrun_worker.errors import OutputError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.output.base import say_taken_away
from annotationrun_worker.output.change import DatasetChange, Written, build_changed, unchanged
from annotationrun_worker.output.placement import file_lock, sync_folder, sync_folders
from annotationrun_worker.output.record import (
    RECORD_NAME,
    FileMark,
    MergeRecord,
    SourceTree,
    folder_tree,
    mark_file,
)
from annotationrun_worker.staging.digests import canonical_json, digest_json

WORK_FOLDER: Final = OUR_FOLDER
"""Of a merge in place, in the dataset: on its file system, and hidden from everything that reads datasets."""
NEW_FOLDER: Final = f"{WORK_FOLDER}/new"
_UNFINISHED: Final = f"{WORK_FOLDER}/journal.json.partial"


@dataclass(frozen=True, slots=True)
class Rename:
    """One file that takes its place."""

    path: str
    """Relative to the dataset, with slashes."""
    new: str
    """SHA-256 of the new file, hex digits."""
    old: str | None
    """SHA-256 of the file that is there; ``None``: there is none."""


def write_journal(root: Path, renames: Sequence[Rename]) -> None:
    """Write the journal, durably: from here on the merge can only be completed.

    Raises:
        OSError: it can't be written; then it does not count.
    """
    body = [asdict(rename) for rename in renames]
    content = canonical_json({"renames": body, "sha256": digest_json(body)})
    half = len(content) // 2
    partial = root / _UNFINISHED
    with partial.open("wb") as file:
        file.write(content[:half])
        file.flush()
        reached(FaultPoint.MID_JOURNAL)
        file.write(content[half:])
        file.flush()
        os.fsync(file.fileno())
    partial.rename(root / MERGE_JOURNAL)
    sync_folder(root / WORK_FOLDER)
    reached(FaultPoint.AFTER_JOURNAL)


def read_journal(root: Path) -> list[Rename] | None:
    """The journal of the dataset ``root``; ``None`` where there is none, or it is not whole.

    Raises:
        OutputError: it leads out of the dataset.
        OSError: it can't be read.
    """
    try:
        value = json.loads((root / MERGE_JOURNAL).read_bytes())
        body = value["renames"]
        if value["sha256"] != digest_json(body):
            return None
        renames = [Rename(**rename) for rename in body]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    for rename in renames:
        path = PurePosixPath(rename.path)
        if path.is_absolute() or ".." in path.parts:
            raise OutputError(
                f"{root / MERGE_JOURNAL} names {rename.path!r}, which lies outside of the dataset"
            )
        check_inside(root, rename.path)
    return renames


def check_inside(root: Path, relative: str) -> None:
    """See that a file of the dataset lies in its folder and on its file system, so that it can be replaced.

    Raises:
        OutputError: it does not.
        OSError: nothing can be written to its folder.
    """
    folder = (root / relative).parent
    if not folder.resolve().is_relative_to(root.resolve()) or folder.stat().st_dev != root.stat().st_dev:
        raise OutputError(
            f"{root / relative} can't be changed in place: {folder} leads out of the dataset's folder or "
            "file system; name a new folder as output instead"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} can't be written")


def check_untouched(root: Path, renames: Sequence[Rename]) -> None:
    """See that the files are still those that the new ones were made from.

    Raises:
        OutputError: one is not.
        OSError: one can't be read.
    """
    for rename in renames:
        if _sha256(root / rename.path) != rename.old:
            raise OutputError(
                f"{root / rename.path} was changed by somebody else while its new content was made; nothing "
                "was overwritten, run again"
            )


def missing_renames(root: Path, renames: Sequence[Rename]) -> list[Rename]:
    """Those of the journal that are still to be done, in order; nothing is changed.

    Raises:
        OutputError: a file is neither what it was nor what it shall become.
        OSError: one can't be read.
    """
    missing = []
    for rename in renames:
        found = _sha256(root / rename.path)
        if found == rename.new:
            continue
        staged = _sha256(root / NEW_FOLDER / rename.path)
        if found != rename.old or staged != rename.new:
            what = "was changed by somebody else" if found != rename.old else "has lost its new file"
            raise OutputError(
                f"{root / rename.path} {what} while it was being replaced (SHA-256 {found}, expected "
                f"{rename.old} or {rename.new}); nothing was overwritten. Put it back as it was, or give the "
                f"new files up by removing {root / WORK_FOLDER}; then run again"
            )
        missing.append(rename)
    return missing


def roll_forward(root: Path, renames: Sequence[Rename]) -> None:
    """Do what the journal says, as far as it is not done, durably.

    Raises:
        OutputError, OSError: see ``missing_renames``; the journal stays.
    """
    for rename in missing_renames(root, renames):
        reached(FaultPoint.BEFORE_FILE_RENAME)
        (root / NEW_FOLDER / rename.path).rename(root / rename.path)
    for folder in sorted({(root / rename.path).parent for rename in renames}):
        sync_folder(folder)
    reached(FaultPoint.AFTER_FILE_RENAMES)


def discard(root: Path) -> None:
    """Remove the journal, then the new files; a dataset that has none stays as it is.

    Raises:
        OSError: the journal can't be removed.
    """
    if (root / MERGE_JOURNAL).exists():
        (root / MERGE_JOURNAL).unlink()
        sync_folder(root / WORK_FOLDER)
    (root / _UNFINISHED).unlink(missing_ok=True)
    shutil.rmtree(root / NEW_FOLDER, ignore_errors=True)


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


_LAST: Final = ("meta/stats.json", "meta/info.json", RECORD_NAME)
"""Take their places after all others, in this order: ``info.json`` says what the others hold."""


@contextlib.contextmanager
def in_place_lock(root: Path) -> Iterator[None]:
    """Hold the dataset ``root`` alone, to change it; waits until whoever holds it has done.

    Raises:
        OSError: nothing can be written there.
    """
    folder = root / WORK_FOLDER
    try:
        with file_lock(folder / "lock"):
            yield
    finally:
        with contextlib.suppress(OSError):  # not empty: the next one is there, or an unfinished journal
            folder.rmdir()


def recover_in_place(root: Path) -> None:
    """Complete a merge in place that was killed while files took their places; else nothing is written.

    Raises:
        OutputError: somebody changed a file since; nothing was overwritten.
        OSError: a file can't be renamed; the next call goes on.
    """
    if has_journal(root):
        with in_place_lock(root):
            finish(root)


def finish(root: Path) -> None:
    """Complete what a killed merge began, or throw it away if its journal is not whole.

    For whoever holds the ``in_place_lock``.

    Raises:
        OutputError, OSError: see ``recover_in_place``.
    """
    renames = read_journal(root)
    if renames is not None:
        roll_forward(root, renames)
    discard(root)


def change_in_place(change: DatasetChange) -> Written:
    """Change the dataset ``change.source``, for whoever holds the ``in_place_lock``.

    Raises:
        OutputError: the dataset would not be valid, can't be changed in place, or somebody changed it
            meanwhile.
        DatasetError: it can't be read.
        OSError: it can't be written; it is as it was before, or the next command completes the merge.
    """
    root = change.source
    finish(root)
    tree = folder_tree(root)
    record = tree.record
    if record is not None and change.over is not None:
        change = change.over(record)
    if record is not None and record.merge_digest == change.record.merge_digest:
        return unchanged(record)
    (root / NEW_FOLDER).mkdir()
    try:
        written, renames = _build(change, tree, record)
        if renames:
            written.problems = change.check(root / NEW_FOLDER)
            for rename in renames:
                check_inside(root, rename.path)
            check_untouched(root, renames)
            sync_folders(root / WORK_FOLDER)
            sync_folder(root)
            write_journal(root, renames)
    except BaseException:
        discard(root)
        raise
    if renames:
        say_taken_away(written.summary)
        roll_forward(root, renames)
    discard(root)
    return written


def _build(
    change: DatasetChange, tree: SourceTree, record: MergeRecord | None
) -> tuple[Written, list[Rename]]:
    """The dataset as it shall be; which files take their places, in order, none if nothing changes."""
    root = change.source
    written, changed = build_changed(change, root / NEW_FOLDER, tree, record)
    present = root / RECORD_NAME
    old = {**tree.marks, RECORD_NAME: mark_file(RECORD_NAME, present) if present.exists() else None}
    in_order = sorted(changed, key=lambda path: _LAST.index(path) if path in _LAST else -1)
    return written, [Rename(path, str(changed[path]), _text(old[path])) for path in in_order]


def _text(mark: FileMark | None) -> str | None:
    return None if mark is None else str(mark)
