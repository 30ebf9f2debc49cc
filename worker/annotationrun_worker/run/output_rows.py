"""Whether the rows that are there already go with those that a run will make: before the first question.

Interjections belong to the subtasks they interrupt. So no run may make other subtasks under interjections
that stay, nor interjections for other subtasks than those that the output has.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from annotationrun_worker.annotate.prompts import make_prompts
from annotationrun_worker.dataset.files import DatasetFiles, FolderFiles
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.merge.output_place import check_rewritable
from annotationrun_worker.merge.record import MergeRecord, known_record
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.run.modules import plan_module
from annotationrun_worker.run.opening import LocalRun, OpenDataset, result_settings
from annotationrun_worker.run.places import HubPlace


@dataclass(frozen=True, slots=True)
class OutputRows:
    """What an earlier merge made."""

    record: MergeRecord
    files: DatasetFiles


def check_rows(run: LocalRun, dataset: OpenDataset) -> None:
    """See that the data files can take new rows.

    Raises:
        ConfigurationError: subtasks would change under interjections that stay, or interjections come that
            belong to other subtasks.
        OutputError: the record of the output is none.
        DatasetError: source or output can't be read, or the source not be rewritten.
        HubAccessError, HubUnavailableError, StorageError: a file can't be fetched.
    """
    modules: tuple[ModuleName, ...] = tuple(
        name for name in get_args(ModuleName) if getattr(run.spec.modules, name) is not None
    )
    chosen = [int(episode.index) for episode in dataset.chosen]
    if run.is_in_place:
        record = known_record(dataset.files.root)
        _check(dataset.files, _replaced(run, record, chosen, modules), run, record)
        return
    with _output_rows(run) as there:
        if there is not None:
            _check_subtasks(there.record, chosen, modules)
            _check_output(run, there, _replaced(run, there.record, chosen, modules))
    if dataset.files.commit and not dataset.has_language_columns:
        return  # nothing stands in the way of new ones, and no data file has to be fetched to see that
    _check(dataset.files, dict.fromkeys(chosen, modules), run, None)


def _check(
    files: DatasetFiles,
    selected: Mapping[int, Collection[ModuleName]],
    run: LocalRun,
    record: MergeRecord | None,
) -> None:
    ours = {} if record is None else record.results
    for path in files.data_files():
        with files.using(path):
            check_rewritable([path], selected, run.spec.output.existing_rows, ours)


def _check_output(run: LocalRun, there: OutputRows, selected: Mapping[int, Collection[ModuleName]]) -> None:
    """See that the subtasks of the output may be replaced, where that has interjections at all."""
    replaces_subtasks = any("plan" in modules for modules in selected.values())
    if replaces_subtasks and there.record.labelled_episodes.get("interjections"):
        _check(there.files, selected, run, there.record)


def _check_subtasks(record: MergeRecord, chosen: Collection[int], modules: Collection[ModuleName]) -> None:
    """See that interjections are made for the subtasks that will stand beside them.

    Raises:
        ConfigurationError: the output's are not the source's, and the module plan does not give them.
    """
    if "interjections" not in modules or "plan" in modules:
        return
    other = next((index for index in chosen if "plan" in record.results.get(index, {})), None)
    if other is not None:
        raise ConfigurationError(
            f"interjections would belong to the subtasks of the source, but episode {other} of the output "
            "has those of an earlier run's module plan; enable the module plan too, with the settings of "
            "that run: what is staged of it is not asked again"
        )


def _replaced(
    run: LocalRun, record: MergeRecord | None, chosen: Collection[int], modules: tuple[ModuleName, ...]
) -> dict[int, tuple[ModuleName, ...]]:
    """By episode, the modules whose rows may become others; equal settings give equal subtasks."""
    spec = run.spec
    if record is None or spec.modules.plan is None:
        return dict.fromkeys(chosen, modules)
    plan = plan_module(spec.modules.plan, make_prompts(spec.prompts, spec.output_language))
    if record.settings_digests.get("plan") != result_settings(run, plan):
        return dict.fromkeys(chosen, modules)
    others = tuple(name for name in modules if name != "plan")
    return {index: others if "plan" in record.results.get(index, {}) else modules for index in chosen}


@contextmanager
def _output_rows(run: LocalRun) -> Iterator[OutputRows | None]:
    """What an earlier merge made in the place of the output, which is not the source."""
    place = run.places.output
    if isinstance(place, HubPlace):
        from annotationrun_worker.run.hub_output import open_published  # slow to import

        with open_published(run, place) as (_, published):
            yield None if published is None else OutputRows(published.record, published.mirror)
        return
    record = known_record(place) if isinstance(place, Path) and place.is_dir() else None
    yield None if record is None else OutputRows(record, FolderFiles(place))
