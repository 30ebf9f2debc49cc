"""What can be known of a merge before there is anything to merge: is its place free, can the data take it."""

import errno
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from annotationrun_worker.dataset.layout import data_files
from annotationrun_worker.dataset.parquet_files import return_freed_memory
from annotationrun_worker.errors import DatasetError, OutputError, StorageError, is_no_place
from annotationrun_worker.language.existing import ExistingRows, replaced_modules
from annotationrun_worker.language.rewrite import sound_episodes
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.output.in_place import (
    NEW_FOLDER,
    WORK_FOLDER,
    check_inside,
    finish,
    in_place_lock,
    recover_in_place,
)
from annotationrun_worker.output.placement import output_lock, probe_writable, recover
from annotationrun_worker.output.record import RECORD_NAME, MergeRecord, changed_file, read_record

_OF_THE_DISK: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def check_output(source: Path, output: Path, *, overwrite: bool = False) -> None:
    """Find out before any work whether a merge will be able to write ``output``.

    A merge that was killed is completed, or what it left is thrown away. ``overwrite`` allows that the output
    is the source, which is then changed in place.

    Raises:
        OutputError: the output can't be there, or holds something that must not be lost.
        DatasetError: the source is no folder.
        StorageError: nothing can be written there.
    """
    source, output = source.resolve(), output.resolve()
    try:
        check_places(source, output, overwrite=overwrite)
        if source == output:
            with in_place_lock(source):
                finish(source)
                for path in data_files(source):
                    check_inside(source, path.relative_to(source).as_posix())
                check_inside(source, RECORD_NAME)
            return
        recover_in_place(source)
        probe_writable(output.parent)
        if output.parent.exists():
            with output_lock(output):
                recover(output)
                record_of_output(output)
    except OSError as error:
        if is_of_source(error, source, output):
            raise DatasetError(f"can't read the source: {error}; check permissions") from error
        if is_no_place(error):
            raise OutputError(
                f"the output {output} can't be created there: {error}; name another output, or move what is "
                "in the way"
            ) from error
        raise StorageError(
            f"the output {output} can't be written: {error}; check space and permissions, or name another "
            "output"
        ) from error


def is_of_source(error: OSError, source: Path, output: Path) -> bool:
    """Whether reading failed: no full disk, and a file of the source or of the cache that it links to."""
    if error.filename is None or error.errno in _OF_THE_DISK:
        return False
    path = Path(error.filename)
    if path.is_relative_to(source / WORK_FOLDER):
        return False
    is_of_output = path.is_relative_to(output.parent) or output.is_relative_to(path.parent)
    return path.is_relative_to(source) or not is_of_output


def check_places(source: Path, output: Path, *, overwrite: bool) -> None:
    """See that source and output are two places and the output one that can be renamed; or one, if allowed.

    Raises:
        OutputError, DatasetError: see ``check_output``.
    """
    if not source.is_dir():
        raise DatasetError(f"the source {source} is no folder; expected a LeRobot v3.0 dataset")
    for name in (WORK_FOLDER, NEW_FOLDER):
        if (source / name).is_symlink():
            raise OutputError(
                f"{source / name} is a link; a change in place creates and deletes this folder itself, so "
                "remove the link"
            )
    if output == source:
        if overwrite:
            return
        raise OutputError(
            f"the output {output} is the source; name another output, or set spec.output.overwrite: true to "
            "change the dataset in place"
        )
    if output.is_relative_to(source) or source.is_relative_to(output):
        raise OutputError(f"of source {source} and output {output} one is in the other; name another output")
    if output.is_mount():
        raise OutputError(
            f"the output {output} is where a volume is mounted, and can't be renamed; name a folder in it"
        )
    if output.exists() and not output.is_dir():
        raise OutputError(f"the output {output} is a file; name another output")


def record_of_output(output: Path) -> MergeRecord | None:
    """The record of the merge that made ``output``; ``None`` where there is nothing.

    Raises:
        OutputError: no merge made what is there, or it was changed since.
        OSError: it can't be read.
    """
    if not output.exists() or not any(output.iterdir()):
        return None
    record = read_record(output)
    if record is None:
        raise OutputError(
            f"the output {output} holds files that no merge made; move them, or name another output (to "
            "change a dataset in place, make it source and output, with spec.output.overwrite: true)"
        )
    if record.source_identity is not None:
        raise OutputError(
            f"the output {output} is a dataset that was changed in place, which is never replaced; move it, "
            "or name another output"
        )
    changed = changed_file(output, record)
    if changed is not None:
        raise OutputError(
            f"the output {output} was changed since it was merged: {changed!r} is missing, new or not what "
            "was written; move it away, or name another output"
        )
    return record


def check_rewritable(
    paths: Iterable[Path],
    selected: Mapping[int, Collection[ModuleName]],
    existing_rows: ExistingRows,
    ours: Mapping[int, Collection[ModuleName]] = MappingProxyType({}),
) -> None:
    """Find out before any work whether results could take their place in the data files.

    Args:
        paths: the data files.
        selected: the modules that shall have results, by episode.
        existing_rows: what happens to the rows that they own.
        ours: the modules whose rows came from results of earlier runs, by episode.

    Raises:
        ConfigurationError: subtasks would change under interjections that stay.
        DatasetError: a data file can't be read, or its language columns can't be rewritten.
    """
    for path in paths:
        for episode in sound_episodes(path):
            index = episode.index
            replaced_modules(episode, selected.get(index, ()), existing_rows, ours.get(index, ()))
        return_freed_memory()
