"""Staged rows and a source dataset merged: into a folder, in place, or for the Hub.

Merge staged rows and a source dataset: into a new folder, or in place.

A merge that fails leaves the output as it was; one that is killed leaves it so, or is completed by the next.
Every episode and file of the source is in the output, annotated or not.

A merged dataset that is published elsewhere: the files that the merge makes others, built in a folder.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from annotationrun_worker.dataset.episodes import list_episodes
from annotationrun_worker.dataset.metadata import read_info
from annotationrun_worker.errors import DatasetError, OutputError, StorageError
from annotationrun_worker.language.columns import EpisodeLanguage, edit_info, edit_stats
from annotationrun_worker.language.existing import AnnotatedEpisode, ExistingRows, all_rows, replace_rows
from annotationrun_worker.language.rows import ModuleName, StagedRow, module_of
from annotationrun_worker.language.rules import Problem
from annotationrun_worker.language.validate import validate_dataset
from annotationrun_worker.output.apply import apply_change
from annotationrun_worker.output.base import (
    HasSameVideos,
    LanguageSummary,
    OutputBase,
    RowsTakenAway,
    no_videos_are_the_same,
)
from annotationrun_worker.output.change import DatasetChange, Written, build_changed
from annotationrun_worker.output.place import is_of_source
from annotationrun_worker.output.record import (
    FileMark,
    MergeRecord,
    RecordedModel,
    SourceTree,
    Unanswered,
    merge_digest,
)

if TYPE_CHECKING:
    from annotationrun_worker.hub.publication import Published


_SHOWN_PROBLEMS = 5
_RULES_OF_THE_SOURCE: Final = frozenset({"episodes", "episode-rows", "frames"})
"""The validator's, on what no change of language rows touches; an episode with new rows kept them all."""
_FAULTS_OF_THE_SOURCE: Final = frozenset({"episodes", "missing-file", "schema-same", "tasks"})
"""The validator's, of what every merge takes over as it is."""

METADATA_EDITS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "meta/info.json": edit_info,
    "meta/stats.json": edit_stats,
}
"""What becomes of the content of a metadata file, by its path."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What to merge, and where to."""

    source: Path
    output: Path
    results: Mapping[int, Mapping[ModuleName, str]]
    """The result key of each module that succeeded, by episode; all other rows survive."""
    read_rows: Callable[[str], Sequence[StagedRow]]
    """The rows of a result, by its key."""
    source_identity: str
    """Commit SHA of the source, or its ``source_identity`` towards ``output``."""
    existing_rows: ExistingRows = "Replace"
    settings_digests: Mapping[str, str] = field(default_factory=dict)
    """By module; recorded in the output."""
    model: RecordedModel | None = None
    """That the results came from; recorded in the output."""
    failed_episodes: Sequence[int] = ()
    """Selected episodes without results, which the manifest lets go; recorded in the output."""
    unanswered: Sequence[Unanswered] = ()
    """Questions of the results that got no usable answer; recorded in the output."""
    overwrite: bool = False
    """The output may be the source, which is then changed in place."""
    has_same_videos: HasSameVideos = no_videos_are_the_same
    """Between the source and what is in the place of the output."""


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge did."""

    digest: str
    unchanged: bool
    """The output was there already: nothing was written."""
    files_written: int = 0
    """Files whose bytes were written: data files, metadata, what was copied."""
    bytes_written: int = 0
    files_linked: int = 0
    """Hard links, and files that share their blocks: no bytes written."""
    surviving_problems: tuple[Problem, ...] = ()
    """What the validator says of rows that were there before and stay, and all warnings."""
    labelled_episodes: Mapping[ModuleName, int] = field(default_factory=dict)
    """How many episodes of the output have rows of each module, whoever made them."""
    published: "Published | None" = None
    """What stands on the Hub; ``None`` for a folder."""


def merge_to_folder(plan: MergePlan) -> MergeResult:
    """Write the merged dataset to ``plan.output``, or find that it is there already.

    An output that an earlier merge made, and nobody changed since, is replaced; a dataset that is source and
    output at once is changed in place. While another merge writes to it, this one waits.

    Raises:
        OutputError: the output can't be there, holds something else, or would not be valid.
        DatasetError: the source can't be read.
        StagingError: a staged row does not fit its episode.
        StorageError: the output can't be written; it is as it was before, or the next merge completes it.
    """
    return merge_result(apply_change(change_of(plan), overwrite=plan.overwrite))


def change_of(
    plan: MergePlan,
    rules_left_out: Collection[str] = (),
    record: MergeRecord | None = None,
    there: Path | None = None,
) -> DatasetChange:
    """What becomes of the source.

    Args:
        plan: what is merged.
        rules_left_out: rules that are not held against what is built.
        record: of the merge that made what is in the place of the output.
        there: the folder with its data files, whose other rows stay; ``None``: it is the source.
    """
    is_in_place = plan.source.resolve() == plan.output.resolve()
    base = None if there is None else OutputBase(there, plan.has_same_videos)
    made = _Made(plan, record, base)
    return DatasetChange(
        source=plan.source,
        output=plan.output,
        language_of=made.language_of,
        edits=METADATA_EDITS,
        record=made.likely_record(),
        source_identity=plan.source_identity,
        check=lambda folder: check_valid(folder, plan.output, made.replaced, rules_left_out),
        episodes=plan.results.keys(),
        over=lambda found: change_of(plan, rules_left_out, found, None if is_in_place else plan.output),
        final_record=made.final_record,
        summarize=made.summarize,
        close=lambda: None if base is None else base.close(),
    )


class _Made:
    """The rows of a merge, episode by episode, and what is to be recorded of them."""

    def __init__(self, plan: MergePlan, record: MergeRecord | None, base: OutputBase | None) -> None:
        self._plan = plan
        self._record = record
        self._base = base
        self._others: set[int] = set()
        """Episodes of the output whose frames are no longer those of the source."""
        self._rows: dict[int, Counter[str | None]] = {}
        """By episode, how many rows of each style."""
        self._taken_away = RowsTakenAway()
        self.replaced: set[tuple[int, ModuleName]] = set()

    def language_of(self, episode: AnnotatedEpisode) -> EpisodeLanguage:
        """The rows that the episode shall have."""
        index, plan = episode.index, self._plan
        there = None if self._base is None else self._base.read(index)
        if there is not None and self._base is not None:
            if self._base.holds(episode, there.language):
                episode = replace(episode, language=there.language)
            else:
                self._others.add(index)
        recorded, keys = self._recorded_of(index), plan.results.get(index, {})
        settled = {module for module, key in keys.items() if recorded.get(module) == key}
        staged = {module: plan.read_rows(key) for module, key in keys.items() if module not in settled}
        ours = {} if self._base is None else recorded  # in place, rows are as good as anybody's
        language, modules = replace_rows(episode, staged, plan.existing_rows, ours, settled)
        self.replaced.update((index, module) for module in modules)
        before = episode.language if there is None else there.language
        self._taken_away.note(index, before, language)
        self._rows[index] = Counter(row.style for row in all_rows(language))
        return language

    def summarize(self) -> LanguageSummary:
        """Of all episodes that the rows were made of."""
        if self._base is not None:
            for index in sorted(self._base.episodes - self._rows.keys()):
                gone = self._base.read(index)
                if gone is not None:
                    self._taken_away.note(index, gone.language, None)
        by_style: Counter[str] = Counter()
        for rows in self._rows.values():
            by_style.update({style or "speech": count for style, count in rows.items()})
        return LanguageSummary(
            len(self._rows),
            self._labelled_episodes(),
            dict(by_style),
            self._taken_away.lines(),
            self.final_record().unanswered,
        )

    def _labelled_episodes(self) -> dict[ModuleName, int]:
        owners = (frozenset(map(module_of, rows)) for rows in self._rows.values())
        return dict(Counter(module for modules in owners for module in modules if module is not None))

    def likely_record(self) -> MergeRecord:
        """What will be recorded if every episode is the same, and rows that are to be kept are there."""
        keeps = self._plan.existing_rows == "Keep" and self._base is None and self._record is not None
        recorded = self._record.results if self._record is not None and keeps else {}
        return self._merged_record(lambda index, module: module not in recorded.get(index, {}), ())

    def final_record(self) -> MergeRecord:
        """Of the rows that were made and of those that stayed."""
        gone = set() if self._record is None else self._record.results.keys() - self._rows.keys()
        record = self._merged_record(lambda *made: made in self.replaced, self._others | gone)
        return replace(record, labelled_episodes=self._labelled_episodes())

    def _merged_record(
        self, is_replaced: Callable[[int, ModuleName], bool], gone: Collection[int]
    ) -> MergeRecord:
        """The earlier merge's record, but for the episodes that are ``gone``, and what this one replaces."""
        plan, old = self._plan, self._record
        results: dict[int, dict[ModuleName, str]] = {}
        if old is not None:
            results |= {index: dict(keys) for index, keys in old.results.items() if index not in gone}
        for index, keys in plan.results.items():
            replaced = {module: str(key) for module, key in keys.items() if is_replaced(index, module)}
            results[index] = {**results.get(index, {}), **replaced}
        settings = {**({} if old is None else old.settings_digests), **plan.settings_digests}
        still = set() if old is None else set(old.failed_episodes) - plan.results.keys() - set(gone)
        failed = tuple(sorted(still | set(plan.failed_episodes)))
        publishing: dict[str, str] = {"existingRows": plan.existing_rows}
        publishing |= {f"settings/{module}": digest for module, digest in settings.items()}
        publishing["failedEpisodes"] = ",".join(map(str, failed))
        results = {index: keys for index, keys in results.items() if keys}
        digest = merge_digest(results, plan.source_identity, publishing)
        kept = () if old is None else old.unanswered
        unanswered = [
            *(it for it in kept if it.episode not in gone and not is_replaced(it.episode, it.module)),
            *(it for it in plan.unanswered if is_replaced(it.episode, it.module)),
        ]
        models = self._models_of(results)
        return MergeRecord(
            digest, settings, {}, failed, results, unanswered=tuple(sorted(unanswered)), models=models
        )

    def _models_of(
        self, results: Mapping[int, Mapping[ModuleName, str]]
    ) -> dict[ModuleName, tuple[RecordedModel, ...]]:
        """The models that ``results`` came from: this merge's, and all earlier ones where theirs are left."""
        plan, old = self._plan, {} if self._record is None else self._record.models
        ours = () if plan.model is None else (plan.model,)
        found: dict[ModuleName, set[RecordedModel]] = {}
        for index, keys in results.items():
            made = plan.results.get(index, {})
            for module, key in keys.items():
                models = ours if made.get(module) == key else old.get(module, ())
                found.setdefault(module, set()).update(models)
        return {module: tuple(sorted(models)) for module, models in sorted(found.items()) if models}

    def _recorded_of(self, index: int) -> Mapping[ModuleName, str]:
        """Keys of the results that earlier merges made rows of, which are there as they were made."""
        if self._record is None or index in self._others:
            return {}
        return self._record.results.get(index, {})


def merge_result(written: Written) -> MergeResult:
    """What was done."""
    return MergeResult(
        digest=written.merge_digest,
        unchanged=written.is_unchanged,
        files_written=written.files_written,
        bytes_written=written.bytes_written,
        files_linked=written.files_linked,
        surviving_problems=written.problems,
        labelled_episodes=written.summary.labelled_episodes,
    )


def check_valid(
    folder: Path,
    output: Path,
    replaced: Collection[tuple[int, ModuleName]],
    rules_left_out: Collection[str] = (),
) -> tuple[Problem, ...]:
    """Validate what was built in ``folder``; only rows that were there before may have errors, as they had.

    Args:
        folder: what was built.
        output: the place that it is for.
        replaced: (episode, module) of the rows that are new.
        rules_left_out: names of rules that don't hold for it.

    Raises:
        OutputError: it is not valid.
        DatasetError: the same, by faults of the source alone, which no merge makes.
    """
    problems = [p for p in validate_dataset(folder) if p.rule not in rules_left_out]
    ours = [p for p in problems if p.severity == "error" and not _survives(p, replaced)]
    if ours:
        shown = "\n".join(f"  {problem}" for problem in ours[:_SHOWN_PROBLEMS])
        shown = shown.replace(str(folder), str(output))
        is_of_source = all(problem.rule in _FAULTS_OF_THE_SOURCE for problem in ours)
        raise (DatasetError if is_of_source else OutputError)(
            f"the merged dataset would not be valid ({len(ours)} errors); {output} is as it was:\n{shown}"
        )
    return tuple(problems)


def _survives(problem: Problem, replaced: Collection[tuple[int, ModuleName]]) -> bool:
    """Whether it was there before: of the source's own frames, or of rows that this change did not make."""
    if problem.episode is None:
        return False
    if problem.rule in _RULES_OF_THE_SOURCE:
        return True
    if problem.style is None:
        return False
    module = module_of(None if problem.style == "speech" else problem.style)
    return module is None or (problem.episode, module) not in replaced


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
