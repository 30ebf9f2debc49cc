"""Undo: remove the rows of modules from an annotated dataset, into a new folder or in place.

Where no row is left in the whole dataset, the columns go too, with what ``meta/`` says of them: the dataset
is then as it was before it was annotated.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from annotationrun_worker.dataset.layout import check_entries, data_files
from annotationrun_worker.errors import DatasetError, OutputError
from annotationrun_worker.language.columns import EpisodeLanguage, drop_from_info, edit_info, edit_stats
from annotationrun_worker.language.existing import AnnotatedEpisode, all_rows, drop_rows
from annotationrun_worker.language.rewrite import sound_episodes
from annotationrun_worker.language.rows import ModuleName, module_of
from annotationrun_worker.output.apply import apply_change
from annotationrun_worker.output.change import DatasetChange
from annotationrun_worker.output.merge import check_valid
from annotationrun_worker.output.place import check_output, record_of_output
from annotationrun_worker.output.record import MergeRecord, known_record, merge_digest, source_identity

_RULES_OF_COLUMNS: Final = frozenset({"features", "tools", "column-missing"})
"""The validator's, which a dataset without the columns does not keep."""


@dataclass(frozen=True, slots=True)
class DropPlan:
    """What to remove, and where to."""

    dataset: Path
    output: Path
    """A new folder; or the dataset itself, which is then changed in place."""
    modules: frozenset[ModuleName]


@dataclass(frozen=True, slots=True)
class DropResult:
    """What was removed."""

    rows: Mapping[ModuleName, int]
    """Rows that went, by module; persistent ones are counted once an episode."""
    columns_dropped: bool
    """No row is left, so the columns went too."""
    unchanged: bool
    """Nothing was written: the output was there already."""
    files_written: int
    bytes_written: int
    files_linked: int


def drop_modules(plan: DropPlan) -> DropResult:
    """Remove the rows of ``plan.modules``; all other rows, columns and files stay.

    Raises:
        ConfigurationError: interjections would stay whose subtasks go.
        OutputError: the output can't be there, or holds something else.
        DatasetError: the dataset can't be read, or its language columns can't be rewritten.
        StorageError: the output can't be written.
    """
    dataset, output = plan.dataset.resolve(), plan.output.resolve()
    check_entries(dataset)
    check_output(dataset, output, overwrite=True)
    dropped, rows_left = _survey(dataset, plan.modules)
    has_language = rows_left > 0
    identity = source_identity(dataset, output)
    is_of_merge = dataset == output and _is_made_by_a_merge(dataset)

    def language_of(episode: AnnotatedEpisode) -> EpisodeLanguage:
        language = drop_rows(episode, plan.modules)
        if not has_language and next(iter(all_rows(language)), None) is not None:
            raise OutputError(f"{dataset} was changed by somebody else meanwhile; run again")
        return language

    written = apply_change(
        DatasetChange(
            source=dataset,
            output=output,
            language_of=language_of,
            edits={
                "meta/info.json": edit_info if has_language else drop_from_info,
                "meta/stats.json": edit_stats,
            },
            record=_record(plan, identity),
            source_identity=None if is_of_merge else identity,
            check=lambda folder: check_valid(folder, output, (), () if has_language else _RULES_OF_COLUMNS),
            has_language=has_language,
        ),
        overwrite=True,
    )
    return DropResult(
        rows=dropped,
        columns_dropped=not has_language,
        unchanged=written.is_unchanged,
        files_written=written.files_written,
        bytes_written=written.bytes_written,
        files_linked=written.files_linked,
    )


def _survey(dataset: Path, modules: Collection[ModuleName]) -> tuple[Mapping[ModuleName, int], int]:
    """How many rows each module loses, and how many stay."""
    dropped: Counter[ModuleName] = Counter(dict.fromkeys(modules, 0))
    rows_left = 0
    for path in data_files(dataset):
        for episode in sound_episodes(path):
            drop_rows(episode, modules)
            for row in all_rows(episode.language):
                owner = module_of(row.style)
                if owner is not None and owner in modules:
                    dropped[owner] += 1
                else:
                    rows_left += 1
    return dropped, rows_left


def _is_made_by_a_merge(dataset: Path) -> bool:
    """Whether a merge made the folder, and nobody changed it since: the next may replace it all the same."""
    try:
        return record_of_output(dataset) is not None
    except OutputError:
        return False
    except OSError as error:
        raise DatasetError(f"{dataset} can't be read: {error}; check permissions") from error


def _record(plan: DropPlan, identity: str) -> MergeRecord:
    """What was recorded of the modules that stay."""
    old = known_record(plan.dataset)
    settings = old.settings_digests if old else {}
    kept = {name: digest for name, digest in settings.items() if name not in plan.modules}
    dropping = {"drop": ",".join(sorted(plan.modules))}
    labelled = old.labelled_episodes if old else {}
    results = {
        episode: {name: key for name, key in keys.items() if name not in plan.modules}
        for episode, keys in (old.results if old else {}).items()
    }
    return MergeRecord(
        merge_digest({}, identity, dropping),
        kept,
        {},
        old.failed_episodes if old and kept else (),
        {episode: keys for episode, keys in results.items() if keys},
        {name: count for name, count in labelled.items() if name not in plan.modules},
        tuple(it for it in (old.unanswered if old else ()) if it.module not in plan.modules),
        {name: models for name, models in (old.models if old else {}).items() if name not in plan.modules},
    )
