"""A change of a dataset's language rows, and the files that it makes others.

A change of a dataset's language rows: what it makes of each file, and where the result goes.

The files of a dataset that a change makes others: written beside links to all that stays.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.language.columns import EpisodeLanguage
from annotationrun_worker.language.existing import AnnotatedEpisode
from annotationrun_worker.language.rewrite import LanguageOf, is_as_rewritten, rewrite_data_file
from annotationrun_worker.language.rules import Problem
from annotationrun_worker.output.base import LanguageSummary
from annotationrun_worker.output.placement import write_file
from annotationrun_worker.output.record import (
    LARGE_FOLDERS,
    RECORD_NAME,
    FileMark,
    MergeRecord,
    SourceTree,
    mark_file,
)
from annotationrun_worker.staging.digests import digest_bytes

Edits = Mapping[str, Callable[[bytes], bytes]]
"""What becomes of the content of a metadata file, by its path."""


@dataclass(frozen=True, slots=True)
class DatasetChange:
    """What a dataset becomes, and where."""

    source: Path
    output: Path
    """Another folder; or the source itself, which is then changed in place."""
    language_of: LanguageOf
    edits: Edits
    record: MergeRecord
    """Without ``files``, which come when they are written."""
    source_identity: str | None
    """For the record of a dataset that is changed in place: see ``MergeRecord``."""
    check: Callable[[Path], tuple[Problem, ...]]
    """Validates the folder of what was built; raises OutputError."""
    has_language: bool = True
    """Whether the result has the language columns."""
    episodes: Iterable[int] = ()
    """Episodes that have to be there."""
    over: Callable[[MergeRecord], "DatasetChange"] | None = None
    """The same change of a dataset of which an earlier merge left a record: its other rows stay."""
    final_record: Callable[[], MergeRecord] | None = None
    """Of what was built, once ``language_of`` was asked for every episode; ``None``: it is ``record``."""
    summarize: Callable[[], LanguageSummary] = LanguageSummary
    """Of what was built; called before anything takes its place."""
    close: Callable[[], None] = lambda: None
    """Called when the change is carried out, or has failed."""

    @property
    def record_now(self) -> MergeRecord:
        """Of what was built."""
        return self.record if self.final_record is None else self.final_record()


@dataclass(slots=True)
class Written:
    """What was done."""

    files_written: int = 0
    """Files whose bytes were written: data files, metadata, what was copied."""
    bytes_written: int = 0
    files_linked: int = 0
    """Hard links, and files that share their blocks: no bytes written."""
    is_unchanged: bool = False
    """The output was there already: nothing was written."""
    merge_digest: str = ""
    """Of what stands there now."""
    summary: LanguageSummary = field(default_factory=LanguageSummary)
    """Of its rows, where it was built."""
    problems: tuple[Problem, ...] = ()
    """What ``DatasetChange.check`` lets pass."""
    path_of_episode: dict[int, str] = field(default_factory=dict)
    """The data file of each episode, by path relative to the dataset."""

    def wrote(self, path: Path) -> None:
        """Count a file."""
        self.files_written += 1
        self.bytes_written += path.stat().st_size

    def language_in(self, change: DatasetChange, relative: str) -> LanguageOf:
        """The rows that ``change`` gives the episodes of one data file.

        It raises DatasetError on an episode that was found in another file already.
        """

        def language_of(episode: AnnotatedEpisode) -> EpisodeLanguage:
            first = self.path_of_episode.setdefault(episode.index, relative)
            if first != relative:
                raise DatasetError(
                    f"{change.source}: episode {episode.index} is in two data files, {first} and {relative}; "
                    "expected one"
                )
            return change.language_of(episode)

        return language_of

    def check_episodes(self, change: DatasetChange) -> None:
        """See that the data files held every episode that ``change`` has rows for.

        Raises:
            DatasetError: they did not.
        """
        lost = sorted(set(change.episodes) - self.path_of_episode.keys())
        if lost:
            raise DatasetError(
                f"{change.source}: there are results for the episodes {lost}, which no data file holds"
            )


def unchanged(record: MergeRecord) -> Written:
    """What stands there already, as ``record`` says."""
    summary = LanguageSummary(labelled_episodes=record.labelled_episodes, unanswered=record.unanswered)
    return Written(is_unchanged=True, merge_digest=record.merge_digest, summary=summary)


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
