"""A dataset that is changed in place: new files beside the old ones, a journal, then renames.

``.annotationrun/new`` becomes the dataset as it shall be: files that change are written there, all others are
symbolic links to what is there. It is validated; then the new files take their places by the journal. Videos
and files that don't change are never touched, and nothing is deleted but what was replaced.

While the files take their places, a reader sees old and new ones together. That matters in the first merge
alone, when files without the language columns stand beside files with them; ``info.json`` names the columns
only once they are in all.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from annotationrun_worker.merge.base import say_taken_away
from annotationrun_worker.merge.change import DatasetChange, Written, unchanged
from annotationrun_worker.merge.changed_files import build_changed
from annotationrun_worker.merge.journal import (
    NEW_FOLDER,
    WORK_FOLDER,
    Rename,
    check_inside,
    check_untouched,
    discard,
    has_journal,
    read_journal,
    roll_forward,
    write_journal,
)
from annotationrun_worker.merge.placement import file_lock, sync_folder, sync_folders
from annotationrun_worker.merge.record import FileMark, MergeRecord, mark_file
from annotationrun_worker.merge.source_files import RECORD_NAME
from annotationrun_worker.merge.source_tree import SourceTree, folder_tree

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
