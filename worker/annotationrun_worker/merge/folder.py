"""Merge staged rows and a source dataset into a new folder.

Built beside the output, validated there, then renamed: a merge that fails or is killed leaves the output as
it was. Every episode and file of the source is in the output, annotated or not.
"""

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import DatasetError, OutputError, StorageError
from annotationrun_worker.merge.columns import EpisodeLanguage
from annotationrun_worker.merge.existing import AnnotatedEpisode
from annotationrun_worker.merge.metadata import edit_info, edit_stats
from annotationrun_worker.merge.output_place import check_places, record_in_place
from annotationrun_worker.merge.placement import (
    copy_file,
    link_file,
    output_lock,
    partial_folder,
    put_in_place,
    recover,
    write_file,
)
from annotationrun_worker.merge.record import MergeRecord, mark_files, merge_digest
from annotationrun_worker.merge.replacement import ExistingRows, replace_rows
from annotationrun_worker.merge.rewrite import rewrite_data_file
from annotationrun_worker.merge.source_files import LARGE_FOLDERS, RECORD_NAME, source_files
from annotationrun_worker.rows import ModuleName, StagedRow, module_of
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.validate.dataset import validate_dataset
from annotationrun_worker.validate.problem import Problem

_SHOWN_PROBLEMS = 5

_EDITED: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "meta/info.json": edit_info,
    "meta/stats.json": edit_stats,
}


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
    """Commit SHA of the source, or its ``folder_identity``."""
    existing_rows: ExistingRows = "Replace"
    settings_digests: Mapping[str, str] = field(default_factory=dict)
    """By module; recorded in the output."""
    failed_episodes: Sequence[int] = ()
    """Selected episodes without results, which the manifest lets go; recorded in the output."""

    @property
    def digest(self) -> Digest:
        """The merge digest: equal digests, equal bytes."""
        publishing: dict[str, str] = {"existingRows": self.existing_rows}
        publishing |= {f"settings/{module}": digest for module, digest in self.settings_digests.items()}
        publishing["failedEpisodes"] = ",".join(map(str, sorted(self.failed_episodes)))
        return merge_digest(self.results, self.source_identity, publishing)


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


@dataclass(slots=True)
class _Tally:
    files_written: int = 0
    bytes_written: int = 0
    files_linked: int = 0
    replaced: set[tuple[int, ModuleName]] = field(default_factory=set)
    """(episode, module) whose rows come from this merge."""
    episodes: set[int] = field(default_factory=set)

    def wrote(self, path: Path) -> None:
        self.files_written += 1
        self.bytes_written += path.stat().st_size


def merge_to_folder(plan: MergePlan) -> MergeResult:
    """Write the merged dataset to ``plan.output``, or find that it is there already.

    An output that an earlier merge made, and nobody changed since, is replaced. While another merge writes
    to it, this one waits.

    Raises:
        OutputError: the output can't be there, holds something else, or would not be valid.
        DatasetError: the source can't be read.
        StagingError: a staged row does not fit its episode.
        StorageError: the output can't be written; it is as it was before.
    """
    source, output = plan.source.resolve(), plan.output.resolve()
    try:
        check_places(source, output)
        with output_lock(output):
            recover(output)
            record = record_in_place(output)
            if record is not None and record.merge_digest == plan.digest:
                return MergeResult(plan.digest, unchanged=True)
            with partial_folder(output) as partial:
                tally = _build(plan, source, partial)
                surviving = _check_valid(partial, output, tally)
                record_in_place(output)  # once more: somebody may have put files there meanwhile
                put_in_place(partial, output)
    except OSError as error:
        if _is_of_source(error, source, output):
            raise DatasetError(f"can't read the source: {error}") from error
        raise StorageError(
            f"can't write the merged dataset to {output}: {error}; it is as it was before; check space and "
            "permissions, then run again"
        ) from error
    return MergeResult(
        digest=plan.digest,
        unchanged=False,
        files_written=tally.files_written,
        bytes_written=tally.bytes_written,
        files_linked=tally.files_linked,
        surviving_problems=surviving,
    )


def _is_of_source(error: OSError, source: Path, output: Path) -> bool:
    """Whether reading failed: no full disk, and a file of the source or of the cache that it links to."""
    if error.filename is None or error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return False
    path = Path(error.filename)
    return path.is_relative_to(source) or not path.is_relative_to(output.parent)


def _build(plan: MergePlan, source: Path, partial: Path) -> _Tally:
    tally = _Tally()
    for relative, path in source_files(source):
        target = partial / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = relative.split("/", 1)[0]
        if folder == "data" and target.suffix == ".parquet":
            rewrite_data_file(path, target, lambda episode: _language_of(plan, episode, tally))
            tally.wrote(target)
        elif relative in _EDITED:
            write_file(target, _EDITED[relative](path.read_bytes()))
            tally.wrote(target)
        elif folder in LARGE_FOLDERS and link_file(path, target) != "copied":
            tally.files_linked += 1
        elif folder in LARGE_FOLDERS:
            tally.wrote(target)
        else:
            copy_file(path, target)
            tally.wrote(target)
    lost = sorted(plan.results.keys() - tally.episodes)
    if lost:
        raise DatasetError(f"{source}: there are results for the episodes {lost}, which no data file holds")
    record = MergeRecord(
        plan.digest,
        plan.settings_digests,
        mark_files(partial),
        tuple(sorted(plan.failed_episodes)),
    )
    write_file(partial / RECORD_NAME, record.to_bytes())
    tally.wrote(partial / RECORD_NAME)
    return tally


def _language_of(plan: MergePlan, episode: AnnotatedEpisode, tally: _Tally) -> EpisodeLanguage:
    if episode.index in tally.episodes:
        raise DatasetError(f"{plan.source}: episode {episode.index} is in two data files; expected one")
    tally.episodes.add(episode.index)
    keys = plan.results.get(episode.index, {})
    staged = {module: plan.read_rows(key) for module, key in keys.items()}
    language, replaced = replace_rows(episode, staged, plan.existing_rows)
    tally.replaced |= {(episode.index, module) for module in replaced}
    return language


def _check_valid(partial: Path, output: Path, tally: _Tally) -> tuple[Problem, ...]:
    """Validate what was built; only rows that survive from the source may have errors, as they had before."""
    problems = validate_dataset(partial)
    ours = [problem for problem in problems if problem.severity == "error" and not _survives(problem, tally)]
    if ours:
        shown = "\n".join(f"  {problem}" for problem in ours[:_SHOWN_PROBLEMS])
        shown = shown.replace(str(partial), str(output))
        raise OutputError(
            f"the merged dataset would not be valid ({len(ours)} errors); {output} is as it was:\n{shown}"
        )
    return tuple(problems)


def _survives(problem: Problem, tally: _Tally) -> bool:
    if problem.episode is None or problem.style is None:
        return False
    module = module_of(None if problem.style == "speech" else problem.style)
    if module is None:
        return problem.style in {"motion", "trace"}
    return (problem.episode, module) not in tally.replaced
