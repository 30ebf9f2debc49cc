"""What is looked at before the first question: nobody shall pay for answers that can't be published."""

import shutil
from pathlib import Path
from typing import get_args

from annotationrun_worker.errors import DatasetError, StorageError
from annotationrun_worker.merge.existing import data_files
from annotationrun_worker.merge.output_place import check_output, check_rewritable
from annotationrun_worker.merge.placement import nearest_folder, probe_writable
from annotationrun_worker.merge.source_files import LARGE_FOLDERS, source_files
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.run.hub_source import check_room_for_merge
from annotationrun_worker.run.opening import LocalRun, OpenDataset


def check_places(run: LocalRun, dataset: OpenDataset) -> None:
    """See that output and staging can be written, and that a new output finds room.

    Raises:
        OutputError: the output can't be there, or holds something that must not be lost.
        StorageError: output or staging can't be written, or the disk is too small.
        DatasetError: the source can't be read.
    """
    spec, places = run.spec, run.places
    check_room_for_merge(dataset.files, places.output)
    if isinstance(places.output, Path):
        check_output(dataset.files.root, places.output, overwrite=spec.output.overwrite)
        is_new = not places.output.exists() or not any(places.output.iterdir())
        if is_new and not dataset.files.commit:  # one that is there may stay as it is
            _check_room(dataset.files.root, places.output)
    if isinstance(places.staging, Path):  # of an object store the plan shows it, which is put next
        _check_staging(places.staging)


def check_rows(run: LocalRun, dataset: OpenDataset) -> None:
    """See that the data files can take new rows.

    Raises:
        OutputError: subtasks would be changed under interjections that stay.
        DatasetError: the source can't be read, or not be rewritten.
        HubAccessError, HubUnavailableError, StorageError: a file can't be fetched.
    """
    spec = run.spec
    modules: list[ModuleName] = [
        name for name in get_args(ModuleName) if getattr(spec.modules, name) is not None
    ]
    selected = {int(episode.index): modules for episode in dataset.chosen}
    if not dataset.files.commit:
        check_rewritable(data_files(dataset.files.root), selected, spec.output.existing_rows)
    elif not dataset.has_language_columns:
        pass  # nothing stands in the way of new ones, and no data file has to be fetched to see that
    else:
        for path in {episode.data_path for episode in dataset.chosen}:
            with dataset.files.using(path):
                check_rewritable([path], selected, spec.output.existing_rows)


def _check_room(source: Path, output: Path) -> None:
    """See that the disk holds a new output: what the merge writes anew, and what it can't link.

    Raises:
        StorageError: it does not, as far as the file system tells.
        DatasetError: the source can't be read.
    """
    disk = nearest_folder(output)
    try:
        device, usage = disk.stat().st_dev, shutil.disk_usage(disk)
    except OSError as error:
        raise StorageError(f"the disk of the output {str(output)!r} can't be asked: {error}") from error
    try:
        files = [(name, path.stat()) for name, path in source_files(source)]
    except OSError as error:
        raise DatasetError(f"can't read the source: {error}; check permissions") from error
    needed_bytes = sum(
        status.st_size
        for name, status in files
        if status.st_dev != device or name.split("/", 1)[0] not in LARGE_FOLDERS
    )
    if usage.total and needed_bytes > usage.free:  # some file systems tell nothing
        raise StorageError(
            f"the output {str(output)!r} takes about {needed_bytes:,} bytes, and {str(disk)!r} has "
            f"{usage.free:,} free; make room, or choose another with spec.output"
        )


def _check_staging(staging: Path) -> None:
    try:
        probe_writable(staging)
    except OSError as error:
        raise StorageError(
            f"the staging folder {str(staging)!r} can't be written: {error}; check space and permissions, or "
            "choose another with --staging or spec.staging"
        ) from error
