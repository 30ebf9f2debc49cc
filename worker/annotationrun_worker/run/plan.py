"""The plan of a run: which episodes, in which order, of which source; ``plans/<digest>.json``.

It depends on the manifest and the dataset alone, so that whoever plans the same run makes the same plan. What
is staged already shows when its turn comes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from annotationrun_worker.annotate.coordinate_scale import resolve_coordinate_scale
from annotationrun_worker.dataset.records import EpisodeIndex
from annotationrun_worker.errors import ConfigurationError, StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.record import known_record
from annotationrun_worker.run.hub_source import open_tree
from annotationrun_worker.run.model_revision import model_text, note_model_revision
from annotationrun_worker.run.opening import LocalRun, OpenDataset, open_staging
from annotationrun_worker.run.output_rows import check_rows
from annotationrun_worker.run.preflight import NO_FINDINGS, SourceFindings, check_places, check_source
from annotationrun_worker.staging.creating import check_creating
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.plans import read_plan, stage_plan
from annotationrun_worker.staging.store import StagingStore

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
