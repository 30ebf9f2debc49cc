"""A merged dataset that is published elsewhere: the files that the merge makes others, built in a folder."""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.errors import DatasetError, OutputError, StorageError
from annotationrun_worker.merge.base import HasSameVideos
from annotationrun_worker.merge.change import Written
from annotationrun_worker.merge.changed_files import build_changed
from annotationrun_worker.merge.folder import MergePlan, change_of
from annotationrun_worker.merge.output_place import is_of_source
from annotationrun_worker.merge.record import FileMark, MergeRecord
from annotationrun_worker.merge.source_tree import SourceTree

_RULE_OF_FILES = "missing-file"
_SHOWN_FILES = 5


@dataclass(frozen=True, slots=True)
class BuiltDataset:
    """What differs from the source, and where."""

    folder: Path
    """The changed files lie below it by their paths; all else there is a link."""
    changed: Mapping[str, FileMark]
    """Marks of the files that the merge wrote, by path; none: the source is what it shall be."""
    written: Written


@dataclass(frozen=True, slots=True)
class PublishedOutput:
    """What an earlier merge published in the place of the output."""

    record: MergeRecord
    folder: Path
    """With its data files."""
    has_same_videos: HasSameVideos
    """Between the source and this."""


def build_merged(
    plan: MergePlan, tree: SourceTree, *, is_in_place: bool, there: PublishedOutput | None = None
) -> BuiltDataset:
    """Build the merged dataset in ``plan.output``, an empty folder, and validate it.

    Videos are not looked at: they may be elsewhere, and no merge changes them.

    Args:
        plan: what is merged.
        tree: of the source.
        is_in_place: what is built takes the place of the source.
        there: what takes its place otherwise, and keeps the rows that the merge does not make.

    Raises:
        OutputError: it would not be valid, or lack files that its episodes need.
        DatasetError, StagingError: see ``merge_to_folder``.
        StorageError: the folder can't be written.
    """
    record = tree.record if is_in_place else None
    if there is not None:
        plan = replace(plan, has_same_videos=there.has_same_videos)
    earlier = record if there is None else there.record
    change = replace(
        change_of(plan, {_RULE_OF_FILES}, earlier, None if there is None else there.folder),
        source_identity=plan.source_identity if is_in_place else None,
    )
    try:
        with closing(change):
            written, changed = build_changed(change, plan.output, tree, record)
    except OSError as error:
        if is_of_source(error, tree.root, plan.output):
            raise DatasetError(f"can't read the source: {error}; check permissions") from error
        raise StorageError(
            f"can't write the merged dataset to {str(plan.output)!r}: {error}; check space and permissions"
        ) from error
    if changed:
        missing = list(_missing_files(plan.output, tree))
        if missing:
            raise OutputError(
                f"the merged dataset would lack {len(missing)} files that its episodes need, "
                f"{', '.join(missing[:_SHOWN_FILES])}; is the source complete?"
            )
        written.problems = change.check(plan.output)
    return BuiltDataset(plan.output, changed, written)


def _missing_files(folder: Path, tree: SourceTree) -> Iterator[str]:
    there = {name for name, _ in tree.files}
    needed = {
        path
        for episode in list_episodes(folder, read_info(folder))
        for path in (span.path for span in episode.videos.values())  # rows are looked for by the validator
    }
    for path in sorted(needed):
        name = path.relative_to(folder.absolute()).as_posix()
        if name not in there:
            yield name
