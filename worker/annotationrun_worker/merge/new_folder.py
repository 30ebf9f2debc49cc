"""A changed dataset as a new folder: built beside its place, validated there, then renamed.

What fails or is killed leaves the output as it was. Every episode and file of the source is in the output.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.base import say_taken_away
from annotationrun_worker.merge.change import DatasetChange, Written, unchanged
from annotationrun_worker.merge.output_place import record_of_output
from annotationrun_worker.merge.placement import (
    copy_file,
    link_file,
    partial_folder,
    put_in_place,
    recover,
    write_file,
)
from annotationrun_worker.merge.record import mark_files, read_record
from annotationrun_worker.merge.rewrite import rewrite_data_file
from annotationrun_worker.merge.source_files import LARGE_FOLDERS, RECORD_NAME, source_files


def write_folder(change: DatasetChange) -> Written:
    """Write ``change.output``, for whoever holds the ``output_lock``.

    Raises:
        OutputError: the output holds something else, or would not be valid.
        DatasetError: the source can't be read.
        OSError: the output can't be written; it is as it was before.
    """
    recover(change.output)
    record = record_of_output(change.output)
    if record is not None and change.over is not None:
        change = change.over(record)
    if record is not None and record.merge_digest == change.record.merge_digest:
        return unchanged(record)
    with contextlib.closing(change), partial_folder(change.output) as partial:
        written = _build(change, partial)
        written.problems = change.check(partial)
        if record is not None and record == read_record(partial):
            return replace(unchanged(record), problems=written.problems)
        say_taken_away(written.summary)
        record_of_output(change.output)  # once more: somebody may have put files there meanwhile
        put_in_place(partial, change.output)
    return written


def _build(change: DatasetChange, partial: Path) -> Written:
    written = Written()
    for relative, path in source_files(change.source):
        target = partial / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        is_large = relative.split("/", 1)[0] in LARGE_FOLDERS
        if is_data_file(relative):
            reached(FaultPoint.BEFORE_DATA_FILE)
            language_of = written.language_in(change, relative)
            rewrite_data_file(path, target, language_of, has_language=change.has_language)
        elif relative in change.edits:
            reached(FaultPoint.BEFORE_METADATA)
            write_file(target, change.edits[relative](path.read_bytes()))
        elif is_large and link_file(path, target) != "copied":
            written.files_linked += 1
            continue
        elif not is_large:
            copy_file(path, target)
        written.wrote(target)
    written.check_episodes(change)
    written.summary = change.summarize()
    record = replace(change.record_now, files=mark_files(partial))
    written.merge_digest = record.merge_digest
    write_file(partial / RECORD_NAME, record.to_bytes())
    written.wrote(partial / RECORD_NAME)
    return written
