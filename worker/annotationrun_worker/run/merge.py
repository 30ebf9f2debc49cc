"""The merge step: what is staged for the plan goes into the annotated folder, and is noted in staging."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from annotationrun_api.run_usage import RunUsage
from annotationrun_worker.dataset.files import FolderFiles
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.folder import MergePlan, MergeResult, merge_to_folder
from annotationrun_worker.merge.record import RecordedModel, Unanswered
from annotationrun_worker.rows import StagedRow
from annotationrun_worker.run.annotate import AnnotateStep, results_of
from annotationrun_worker.run.hub_source import fetch_all
from annotationrun_worker.run.merge_lock import merge_lock
from annotationrun_worker.run.opening import LocalRun, OpenDataset, result_settings
from annotationrun_worker.run.places import HubPlace
from annotationrun_worker.run.plan import RunPlan
from annotationrun_worker.run.same_videos import compared_videos
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.plans import stage_merge
from annotationrun_worker.staging.results import read_result_now
from annotationrun_worker.staging.store import StagingStore

MERGE_FORMAT: Final = 1


def merge(
    run: LocalRun, dataset: OpenDataset, plan: RunPlan, step: AnnotateStep, cost: RunUsage
) -> MergeResult:
    """Merge the results that ``step`` found, alone among those that share the staging store.

    Args:
        run: the run.
        dataset: its source.
        plan: what was to be done.
        step: what was done.
        cost: what it took, for the card of a dataset on the Hub.

    Raises:
        OutputError, DatasetError, StagingError, StorageError: see ``merge_to_folder``.
        HubAccessError, HubUnavailableError, OutputMovedError: see ``publish_merged``.
    """
    store, output = step.annotator.basis.store, run.places.output
    with merge_lock(store, str(output)):
        if isinstance(output, HubPlace):
            from annotationrun_worker.run.hub_output import publish_merged, work_folder  # slow to import

            with work_folder(run) as folder:
                merge_plan = _merge_plan(run, dataset.files.root, folder, plan, step)
                merged = publish_merged(run, dataset, merge_plan, plan.settings, cost)
        else:
            fetch_all(dataset.files)
            merge_plan = _merge_plan(run, dataset.files.root, output, plan, step)
            with compared_videos(run, dataset, FolderFiles(output)) as has_same_videos:
                merged = merge_to_folder(replace(merge_plan, has_same_videos=has_same_videos))
        asyncio.run(_note(store, merge_plan, step))
    return merged


async def _note(store: StagingStore, plan: MergePlan, step: AnnotateStep) -> None:
    """``merges/<digest>.json``: which results the merged dataset came from, derived tasks included.

    And what leads to these results, and which of them lack answers: ``gc`` keeps what a later run builds on.
    """
    reached(FaultPoint.BEFORE_MERGE_RECORD)
    results: dict[str, dict[str, str]] = {}
    for episode, keys in plan.results.items():
        results[str(episode)] = {name: str(key) for name, key in keys.items()}
        if episode in step.task_keys:
            results[str(episode)]["task"] = step.task_keys[episode]
    note = {
        "format": MERGE_FORMAT,
        "results": results,
        "earlierRounds": sorted(step.earlier_rounds),
        "unanswered": sorted(step.unanswered),
        "failedEpisodes": sorted(plan.failed_episodes),
    }
    await stage_merge(store, note)


def _merge_plan(run: LocalRun, source: Path, output: Path, plan: RunPlan, step: AnnotateStep) -> MergePlan:
    store, module_of_key = step.annotator.basis.store, results_of(step.keys)

    def read_rows(key: str) -> Sequence[StagedRow]:
        return read_result_now(store, module_of_key[Digest(key)], Digest(key)).rows

    return MergePlan(
        source=source,
        output=output,
        results=step.keys,
        read_rows=read_rows,
        source_identity=plan.source_identity,
        existing_rows=run.spec.output.existing_rows,
        settings_digests={
            module.name: result_settings(run, module) for module in step.annotator.modules.published
        },
        model=RecordedModel(run.spec.model.id, run.spec.model.revision, run.model_revision.commit),
        failed_episodes=step.report.failed_episodes,
        unanswered=[
            Unanswered.of(int(index), module, asdict(hole)) for index, module, hole in step.report.holes
        ],
        overwrite=run.spec.output.overwrite,
    )
