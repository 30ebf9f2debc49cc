"""Merge staged rows and a source dataset: into a new folder, or in place.

A merge that fails leaves the output as it was; one that is killed leaves it so, or is completed by the next.
Every episode and file of the source is in the output, annotated or not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from annotationrun_worker.errors import OutputError
from annotationrun_worker.merge.apply import apply_change
from annotationrun_worker.merge.change import DatasetChange, Written
from annotationrun_worker.merge.columns import EpisodeLanguage
from annotationrun_worker.merge.existing import AnnotatedEpisode
from annotationrun_worker.merge.metadata import edit_info, edit_stats
from annotationrun_worker.merge.record import MergeRecord, merge_digest
from annotationrun_worker.merge.replacement import ExistingRows, replace_rows
from annotationrun_worker.rows import ModuleName, StagedRow, module_of
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.validate.dataset import validate_dataset
from annotationrun_worker.validate.problem import Problem

if TYPE_CHECKING:
    from annotationrun_worker.hub.publication import Published

_SHOWN_PROBLEMS = 5
_RULES_OF_THE_SOURCE: Final = frozenset({"episodes", "episode-rows", "frames"})
"""The validator's, on what no change of language rows touches; an episode with new rows kept them all."""

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
    failed_episodes: Sequence[int] = ()
    """Selected episodes without results, which the manifest lets go; recorded in the output."""
    overwrite: bool = False
    """The output may be the source, which is then changed in place."""

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
    return merge_result(plan, apply_change(change_of(plan), overwrite=plan.overwrite))


def change_of(plan: MergePlan, rules_left_out: Collection[str] = ()) -> DatasetChange:
    """What becomes of the source; ``rules_left_out`` are not held against what is built."""
    replaced: set[tuple[int, ModuleName]] = set()

    def language_of(episode: AnnotatedEpisode) -> EpisodeLanguage:
        staged = {module: plan.read_rows(key) for module, key in plan.results.get(episode.index, {}).items()}
        language, modules = replace_rows(episode, staged, plan.existing_rows)
        replaced.update((episode.index, module) for module in modules)
        return language

    return DatasetChange(
        source=plan.source,
        output=plan.output,
        language_of=language_of,
        edits=METADATA_EDITS,
        record=MergeRecord(plan.digest, plan.settings_digests, {}, tuple(sorted(plan.failed_episodes))),
        source_identity=plan.source_identity,
        check=lambda folder: check_valid(folder, plan.output, replaced, rules_left_out),
        episodes=plan.results.keys(),
    )


def merge_result(plan: MergePlan, written: Written) -> MergeResult:
    """What was done for ``plan``."""
    return MergeResult(
        digest=plan.digest,
        unchanged=written.is_unchanged,
        files_written=written.files_written,
        bytes_written=written.bytes_written,
        files_linked=written.files_linked,
        surviving_problems=written.problems,
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
    """
    problems = [p for p in validate_dataset(folder) if p.rule not in rules_left_out]
    ours = [p for p in problems if p.severity == "error" and not _survives(p, replaced)]
    if ours:
        shown = "\n".join(f"  {problem}" for problem in ours[:_SHOWN_PROBLEMS])
        shown = shown.replace(str(folder), str(output))
        raise OutputError(
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
