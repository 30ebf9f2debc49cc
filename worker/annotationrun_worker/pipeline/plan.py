"""The plan of a run: which episodes, which of them lack a result, and whether rows will go together.

Whether the rows that are there already go with those that a run will make: before the first question.

Interjections belong to the subtasks they interrupt. So no run may make other subtasks under interjections
that stay, nor interjections for other subtasks than those that the output has.

Which episodes of a run lack a result, by the index of what is staged: no frame is read to see it.

Where the index knows less than there is (files were copied, so that their times are others; another store is
used), an episode counts as pending: who works on it finds what is there, and asks nothing.

The plan of a run: which episodes, in which order, of which source; ``plans/<digest>.json``.

It depends on the manifest and the dataset alone, so that whoever plans the same run makes the same plan. What
is staged already shows when its turn comes.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.layout import DatasetFiles, FolderFiles
from annotationrun_worker.dataset.types import EpisodeIndex
from annotationrun_worker.errors import ConfigurationError, DatasetError, StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.language.rows import ModuleName, ResultName
from annotationrun_worker.modules.base import make_prompts
from annotationrun_worker.modules.coordinates import resolve_coordinate_scale
from annotationrun_worker.output.place import check_rewritable
from annotationrun_worker.output.record import MergeRecord, known_record
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.episode import UNANSWERED_OF, EpisodeAnnotator, are_too_many
from annotationrun_worker.pipeline.hub_source import model_text, note_model_revision, open_tree
from annotationrun_worker.pipeline.modules import plan_module
from annotationrun_worker.pipeline.preflight import NO_FINDINGS, SourceFindings, check_places, check_source
from annotationrun_worker.pipeline.result_maker import ExistingRows
from annotationrun_worker.pipeline.wiring import LocalRun, OpenDataset, open_staging, result_settings
from annotationrun_worker.staging.digests import Digest, digest_json, token_digest
from annotationrun_worker.staging.once import check_creating
from annotationrun_worker.staging.plans import read_plan, stage_plan
from annotationrun_worker.staging.results import IndexedResult, ResultIndex
from annotationrun_worker.staging.store import StagingStore


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
        from annotationrun_worker.pipeline.hub_output import open_published  # slow to import

        with open_published(run, place) as (_, published):
            yield None if published is None else OutputRows(published.record, published.mirror)
        return
    record = known_record(place) if isinstance(place, Path) and place.is_dir() else None
    yield None if record is None else OutputRows(record, FolderFiles(place))


Entries = Mapping[Digest, Sequence[IndexedResult]]


async def missing_results(
    annotator: EpisodeAnnotator, episodes: Sequence[EpisodeSummary], findings: SourceFindings
) -> dict[EpisodeIndex, frozenset[ResultName]]:
    """Which results each of ``episodes`` lacks, or lacks answers of that are to be asked for again.

    Episodes that lack nothing are not in it, and none that can't be annotated: nothing can be done for these.

    Raises:
        StorageError: the store can't be read.
    """
    names: list[ResultName] = [module.name for module in annotator.modules.published]
    if annotator.modules.task_rule is not None:
        names.append(annotator.modules.task_rule.module.name)
    index = ResultIndex(annotator.basis.store)

    def missing() -> dict[EpisodeIndex, frozenset[ResultName]]:
        entries = {name: index.read_now(name) for name in names}
        found = {
            episode.index: _missing(annotator, episode, findings.quick_parts.get(episode.index), entries)
            for episode in episodes
            if episode.index not in findings.faults
        }
        return {episode: results for episode, results in found.items() if results}

    return await asyncio.to_thread(missing)


def _missing(
    annotator: EpisodeAnnotator,
    episode: EpisodeSummary,
    parts: Mapping[str, str] | None,
    entries: Mapping[ResultName, Entries],
) -> frozenset[ResultName]:
    if parts is None:
        return frozenset(entries)
    try:
        quick_keys = annotator.quick_keys(episode.task, parts, _existing_rows(annotator, episode))
    except DatasetError:  # whoever works on the episode tells of it
        return frozenset(entries)
    policy = annotator.basis.policy
    token = token_digest(policy.retry_token)
    staged = {name: entries[name].get(quick_key, ()) for name, quick_key in quick_keys.items()}
    best = {name: min(found, key=lambda entry: entry.unanswered) for name, found in staged.items() if found}
    lacking = {name for name, entry in best.items() if entry.unanswered}
    judged = [entry for name, entry in best.items() if name in UNANSWERED_OF]
    if not are_too_many(
        sum(entry.unanswered for entry in judged),
        sum(entry.asked for entry in judged),
        policy.max_unanswered_percent,
    ):  # what was asked under this token is not asked again
        lacking = {name for name in lacking if all(entry.retry_token != token for entry in staged[name])}
    return frozenset({name for name, found in staged.items() if not found} | lacking)


def _existing_rows(annotator: EpisodeAnnotator, episode: EpisodeSummary) -> ExistingRows:
    if not annotator.needs_existing_rows:
        return ExistingRows()
    return annotator.existing_rows(annotator.basis.episodes.read(episode.index))


PLAN_FORMAT = 1

_IN_PLAN = {"source", "model", "modules", "prompts", "seed", "output_language", "frames"}
_NOT_IN_PLAN = {
    "model": {"serving"},
    "source": {"follow", "token_secret_ref", "cache_bytes"},
    "frames": {"cache_bytes"},
}
"""Fields of the spec that a plan is made for, and those of them that it is not: another value makes another
plan. Where the output goes, who serves the model, how much is done at once change nothing of what is to be
done.
"""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is to be done."""

    source_identity: Digest
    settings: Digest
    """Of the manifest's fields that the plan is made for."""
    episodes: Sequence[tuple[EpisodeIndex, int]]
    """Index and number of frames, in the order of work: the longest first."""

    @property
    def indices(self) -> list[EpisodeIndex]:
        """The episodes in the order of work."""
        return [index for index, _ in self.episodes]

    def to_value(self) -> dict[str, Any]:
        """As it is staged."""
        return {
            "format": PLAN_FORMAT,
            "source": self.source_identity,
            "settings": self.settings,
            "episodes": [[int(index), length] for index, length in self.episodes],
        }


def settings_digest(run: LocalRun) -> Digest:
    """Of what a plan is made for; of the model's revision that is the commit which it names now."""
    spec = run.spec.model_dump(mode="json", by_alias=True, include=_IN_PLAN, exclude=_NOT_IN_PLAN)
    spec["model"]["revision"] = run.model_revision.name
    return digest_json({"spec": spec, "limit": run.limit})


@dataclass(frozen=True, slots=True)
class StagedPlan:
    """A plan that is staged."""

    digest: Digest
    plan: RunPlan
    findings: SourceFindings = NO_FINDINGS
    """What was found of source and model; nothing where somebody else has planned."""


async def make_plan(run: LocalRun, dataset: OpenDataset) -> StagedPlan:
    """Look whether all can be read and written, and stage the plan.

    The data files of a dataset on the Hub are not fetched again for a plan that is staged: who made it has
    looked at what they held, and staged what was found.

    Raises:
        OutputError, DatasetError, StorageError: see ``check_places``, ``check_source`` and ``check_rows``.
        ConfigurationError: the scale of the model's coordinates is not known; or see ``check_creating``.
        HubAccessError, HubUnavailableError: a file can't be fetched.
    """
    check_places(run, dataset)
    if run.spec.modules.vqa is not None:
        resolve_coordinate_scale(run.spec.model, run.spec.modules.vqa)
    plan = _plan_of(run, dataset)
    store = open_staging(run)
    await check_creating(store)
    findings = await check_source(run, dataset, store, plan.source_identity)
    if not dataset.files.commit or await read_plan(store, digest_json(plan.to_value())) is None:
        check_rows(run, dataset)
    moved = _moved_model(run, dataset, store)
    digest = await stage_plan(store, plan.to_value())
    reached(FaultPoint.AFTER_PLAN)
    warnings = [*findings.warnings, *run.model_revision.warnings, *moved]
    return StagedPlan(digest, plan, replace(findings, warnings=warnings))


def _plan_of(run: LocalRun, dataset: OpenDataset) -> RunPlan:
    return RunPlan(
        source_identity=open_tree(dataset.files).identity(is_output=run.is_in_place),
        settings=settings_digest(run),
        episodes=[(episode.index, episode.length) for episode in dataset.longest_first],
    )


def _moved_model(run: LocalRun, dataset: OpenDataset, store: StagingStore) -> list[str]:
    """That the output came from another commit of the model, though the manifest names the same revision.

    An output elsewhere on the Hub is not fetched to see that: then it is what the staging store notes.

    Raises:
        OutputError, DatasetError: see ``known_record``.
        StorageError: see ``note_model_revision``.
    """
    model, commit, place = run.spec.model, run.model_revision.commit, run.places.output
    noted = note_model_revision(model, run.model_revision, store)
    folder = dataset.files.root if run.is_in_place else place
    if isinstance(folder, Path):
        before, where = _recorded_commits(run, folder), f"in the output {str(place)!r}"
    else:
        before, where = [noted] if noted else [], f"when it was planned before (staging {store.location!r})"
    if not before or commit in before:
        return []
    return [
        f"{model_text(model)}: was {before[-1] or 'not resolved to a commit'} {where}, is "
        f"{commit or 'not resolved to a commit'} now; all episodes are asked again"
    ]


def _recorded_commits(run: LocalRun, folder: Path) -> list[str]:
    """The commits of the model's revision that rows of this run's modules in ``folder`` came from."""
    record, model = known_record(folder), run.spec.model
    found = [
        recorded
        for module, models in (record.models if record else {}).items()
        if getattr(run.spec.modules, module) is not None
        for recorded in models
    ]
    return [one.commit for one in found if (one.id, one.revision) == (model.id, model.revision)]


async def load_plan(run: LocalRun, dataset: OpenDataset, digest: Digest) -> RunPlan:
    """The staged plan ``digest``; one that is lost is staged anew, if manifest and dataset still make it.

    Raises:
        StagingError: there is none, and they make another; or it is of another format.
        ConfigurationError: it was made for another manifest; or see ``check_creating``.
    """
    store = open_staging(run)
    await check_creating(store)
    value = await read_plan(store, digest)
    if value is None:
        plan = _plan_of(run, dataset)
        if digest_json(plan.to_value()) == digest:
            await stage_plan(store, plan.to_value())
            return plan
        raise StagingError(f"{store.location!r} holds no plan {digest}; make it with 'annotationrun plan'")
    if value.get("format") != PLAN_FORMAT:
        raise StagingError(
            f"the plan {digest} has format {value.get('format')!r}, expected {PLAN_FORMAT}; plan again"
        )
    if value["settings"] != settings_digest(run):
        raise ConfigurationError(
            f"the plan {digest} was made for another manifest or --limit; plan again, or leave out --plan; "
            "if the model's branch has moved since, give the planned commit with --model-revision"
        )
    episodes = [(EpisodeIndex(index), length) for index, length in value["episodes"]]
    return RunPlan(Digest(value["source"]), Digest(value["settings"]), episodes)
