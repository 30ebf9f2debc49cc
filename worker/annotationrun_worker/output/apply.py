"""A change carried out: into a new folder, or in place.

A changed dataset as a new folder: built beside its place, validated there, then renamed.

What fails or is killed leaves the output as it was. Every episode and file of the source is in the output.

Carry a change of a dataset out: into a new folder, or in place.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.errors import DatasetError, OutputError, StorageError, is_no_place
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.language.rewrite import rewrite_data_file
from annotationrun_worker.output.base import say_taken_away
from annotationrun_worker.output.change import DatasetChange, Written, unchanged
from annotationrun_worker.output.in_place import change_in_place, in_place_lock, recover_in_place
from annotationrun_worker.output.place import check_places, is_of_source, record_of_output
from annotationrun_worker.output.placement import (
    copy_file,
    link_file,
    output_lock,
    partial_folder,
    put_in_place,
    recover,
    write_file,
)
from annotationrun_worker.output.record import (
    LARGE_FOLDERS,
    RECORD_NAME,
    mark_files,
    read_record,
    source_files,
)


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


def apply_change(change: DatasetChange, *, overwrite: bool) -> Written:
    """Write the output of ``change``, or find that it is there already; waits while another one writes it.

    What a killed merge in place left is completed first. ``overwrite`` allows that source and output are one.

    Raises:
        OutputError: the output can't be there, holds something else, or would not be valid.
        DatasetError: the source can't be read.
        StorageError: the output can't be written; it is as it was before, or the next command completes it.
    """
    source, output = change.source.resolve(), change.output.resolve()
    change = replace(change, source=source, output=output)
    try:
        check_places(source, output, overwrite=overwrite)
        if source == output:
            with in_place_lock(source):
                return change_in_place(change)
        recover_in_place(source)
        with output_lock(output):
            return write_folder(change)
    except OSError as error:
        if is_of_source(error, source, output):
            raise DatasetError(f"can't read the source: {error}") from error
        if is_no_place(error):
            raise OutputError(
                f"the merged dataset can't be created at {output}: {error}; name another output, or move "
                "what is in the way, then run again"
            ) from error
        state = "the next run completes what was begun" if source == output else "it is as it was before"
        raise StorageError(
            f"can't write the merged dataset to {output}: {error}; {state}; check space and permissions, "
            "then run again"
        ) from error
