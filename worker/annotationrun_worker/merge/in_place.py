"""A dataset that is changed in place: new files beside the old ones, a journal, then renames.

``.annotationrun/new`` becomes the dataset as it shall be: files that change are written there, all others are
symbolic links to what is there. It is validated; then the new files take their places by the journal. Videos
and files that don't change are never touched, and nothing is deleted but what was replaced.

While the files take their places, a reader sees old and new ones together. That matters in the first merge
alone, when files without the language columns stand beside files with them; ``info.json`` names the columns
only once they are in all.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.change import DatasetChange, Written, is_data_file
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
from annotationrun_worker.merge.placement import file_lock, sync_folder, sync_folders, write_file
from annotationrun_worker.merge.record import (
    FileMark,
    MergeRecord,
    mark_file,
    record_of_changed,
    source_marks,
)
from annotationrun_worker.merge.rewrite import is_as_rewritten, rewrite_data_file
from annotationrun_worker.merge.source_files import LARGE_FOLDERS, RECORD_NAME, source_files
from annotationrun_worker.staging.digests import digest_bytes

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
    marks = source_marks(root)
    record = record_of_changed(root, marks)
    if record is not None and record.merge_digest == change.record.merge_digest:
        return Written(is_unchanged=True)
    (root / NEW_FOLDER).mkdir()
    try:
        written, renames = _build(change, marks, record)
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
        roll_forward(root, renames)
    discard(root)
    return written


def _build(
    change: DatasetChange, marks: Mapping[str, FileMark], record: MergeRecord | None
) -> tuple[Written, list[Rename]]:
    """The dataset as it shall be; which files take their places, in order, none if nothing changes."""
    root, new = change.source, change.source / NEW_FOLDER
    written = Written()
    changed: dict[str, FileMark] = {}
    for relative, path in source_files(root):
        if relative.split("/", 1)[0] in LARGE_FOLDERS:
            continue
        target = new / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if _write_changed(change, relative, written, is_ours=record is not None):
            mark = mark_file(relative, target)
            if mark != marks[relative]:
                shutil.copymode(path, target)
                changed[relative] = mark
                written.wrote(target)
                continue
            target.unlink()
        target.symlink_to(path)
    for name in LARGE_FOLDERS:
        if (root / name).exists():
            (new / name).symlink_to(root / name)
    written.check_episodes(change)
    if not changed and record is not None and record.failed_episodes == change.record.failed_episodes:
        written.is_unchanged = True
        return written, []
    content = replace(
        change.record, files={**marks, **changed}, source_identity=change.source_identity
    ).to_bytes()
    write_file(new / RECORD_NAME, content)
    written.wrote(new / RECORD_NAME)
    changed[RECORD_NAME] = digest_bytes(content)
    present = root / RECORD_NAME
    old = {**marks, RECORD_NAME: mark_file(RECORD_NAME, present) if present.exists() else None}
    in_order = sorted(changed, key=lambda path: _LAST.index(path) if path in _LAST else -1)
    return written, [Rename(path, str(changed[path]), _text(old[path])) for path in in_order]


def _write_changed(change: DatasetChange, relative: str, written: Written, *, is_ours: bool) -> bool:
    """Write a file as it shall be, if that may differ from what it is."""
    path, target = change.source / relative, change.source / NEW_FOLDER / relative
    if is_data_file(relative):
        language_of = written.language_in(change, relative)
        if is_ours and is_as_rewritten(path, language_of, has_language=change.has_language):
            return False
        reached(FaultPoint.BEFORE_DATA_FILE)
        rewrite_data_file(path, target, language_of, has_language=change.has_language)
        return True
    if relative in change.edits:
        reached(FaultPoint.BEFORE_METADATA)
        write_file(target, change.edits[relative](path.read_bytes()))
        return True
    return False


def _text(mark: FileMark | None) -> str | None:
    return None if mark is None else str(mark)
