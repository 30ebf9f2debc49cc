"""The files of a dataset that a change makes others: written beside links to all that stays."""

import shutil
from dataclasses import replace
from pathlib import Path

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.change import DatasetChange, Written
from annotationrun_worker.merge.placement import write_file
from annotationrun_worker.merge.record import FileMark, MergeRecord, mark_file
from annotationrun_worker.merge.rewrite import is_as_rewritten, rewrite_data_file
from annotationrun_worker.merge.source_files import LARGE_FOLDERS, RECORD_NAME
from annotationrun_worker.merge.source_tree import SourceTree
from annotationrun_worker.staging.digests import digest_bytes


def build_changed(
    change: DatasetChange,
    new: Path,
    tree: SourceTree,
    record: MergeRecord | None,
) -> tuple[Written, dict[str, FileMark]]:
    """Make ``new``, an empty folder, the dataset as it shall be; videos and what does not change are links.

    Args:
        change: what the dataset becomes.
        new: the folder to make.
        tree: of the source.
        record: of the source, where that is a dataset that we changed and nobody else since.

    Returns:
        What was done, and the marks of the files that were written; none where nothing changes.

    Raises:
        DatasetError: a file of the source can't be read.
        OSError: ``new`` can't be written.
    """
    written = Written()
    changed: dict[str, FileMark] = {}
    for relative, path in tree.files:
        if relative.split("/", 1)[0] in LARGE_FOLDERS:
            continue
        target = new / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if _write_changed(change, relative, target, written, is_ours=record is not None):
            mark = mark_file(relative, target)
            if mark != tree.marks[relative]:
                shutil.copymode(path, target)
                changed[relative] = mark
                written.wrote(target)
                continue
            target.unlink()
        target.symlink_to(path)
    for name in LARGE_FOLDERS:
        if (change.source / name).exists():
            (new / name).symlink_to(change.source / name)
    written.check_episodes(change)
    written.summary = change.summarize()
    now = change.record_now
    if not changed and record is not None and now.lacks == record.lacks:
        written.is_unchanged, written.merge_digest = True, record.merge_digest
        return written, {}
    written.merge_digest = now.merge_digest
    content = replace(now, files={**tree.marks, **changed}, source_identity=change.source_identity).to_bytes()
    write_file(new / RECORD_NAME, content)
    written.wrote(new / RECORD_NAME)
    changed[RECORD_NAME] = digest_bytes(content)
    return written, changed


def _write_changed(
    change: DatasetChange, relative: str, target: Path, written: Written, *, is_ours: bool
) -> bool:
    """Write a file as it shall be, if that may differ from what it is."""
    path = change.source / relative
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
