"""The merge step, one at a time into an output.

One merge at a time into an output, among all that share a staging store.

The claim is held by a thread of its own, so that the merge can be interrupted at any time: its work is done
in the thread that gets the signals.

The merge step: what is staged for the plan goes into the annotated folder, and is noted in staging.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from annotationrun_api.run_usage import RunUsage
from annotationrun_worker.dataset.layout import FolderFiles
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.output.merge import MergePlan, MergeResult, merge_to_folder
from annotationrun_worker.output.record import RecordedModel, Unanswered
from annotationrun_worker.pipeline.annotate import AnnotateStep, results_of
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.hub_source import fetch_all
from annotationrun_worker.pipeline.plan import RunPlan
from annotationrun_worker.pipeline.same_videos import compared_videos
from annotationrun_worker.pipeline.wiring import LocalRun, OpenDataset, result_settings
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.leases import Claims, Heartbeat, Liveness
from annotationrun_worker.staging.plans import stage_merge
from annotationrun_worker.staging.results import read_result_now
from annotationrun_worker.staging.store import StagingStore

LOOK_AGAIN_SECONDS: Final = 1.0
"""Between two looks at a claim that another merge holds."""


@contextmanager
def merge_lock(store: StagingStore, output: str) -> Iterator[None]:
    """Hold the claim on merges into ``output``; waits while another worker that lives holds it.

    Raises:
        StorageError: the store can't be read or written.
    """
    held, done = threading.Event(), threading.Event()
    key = digest_json({"merge_into": output})
    with ThreadPoolExecutor(1, "merge-lock") as executor:
        holding = executor.submit(lambda: asyncio.run(_hold(store, key, held, done)))
        holding.add_done_callback(lambda ended: held.set())
        try:
            held.wait()
            _raise_if_failed(holding)
            yield
        finally:
            done.set()
    holding.result()


def _raise_if_failed(holding: Future[None]) -> None:
    if holding.done():
        holding.result()


async def _hold(store: StagingStore, key: Digest, held: threading.Event, done: threading.Event) -> None:
    async with Heartbeat(store) as heartbeat:
        claims = Claims(store, heartbeat.me, Liveness(store))
        while await claims.take(key) is not None:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if done.is_set():
                return
        held.set()
        try:
            await asyncio.to_thread(done.wait)
        finally:
            await claims.release(key)


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
            from annotationrun_worker.pipeline.hub_output import publish_merged, work_folder  # slow to import

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
            Unanswered.of(int(index), module, asdict(question))
            for index, module, question in step.report.unanswered
        ],
        overwrite=run.spec.output.overwrite,
    )
