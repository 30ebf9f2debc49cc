"""A change of a dataset's language rows: what it makes of each file, and where the result goes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.base import LanguageSummary
from annotationrun_worker.merge.columns import EpisodeLanguage
from annotationrun_worker.merge.existing import AnnotatedEpisode
from annotationrun_worker.merge.record import MergeRecord
from annotationrun_worker.merge.rewrite import LanguageOf
from annotationrun_worker.validate.problem import Problem

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
