"""Carry a change of a dataset out: into a new folder, or in place."""

from dataclasses import replace

from annotationrun_worker.errors import DatasetError, OutputError, StorageError, is_no_place
from annotationrun_worker.merge.change import DatasetChange, Written
from annotationrun_worker.merge.in_place import change_in_place, in_place_lock, recover_in_place
from annotationrun_worker.merge.new_folder import write_folder
from annotationrun_worker.merge.output_place import check_places, is_of_source
from annotationrun_worker.merge.placement import output_lock


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
