"""A run on one machine, from the manifest to the annotated folder."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from annotationrun_api.spec import RunSpec
from annotationrun_worker.annotate.prompts import make_prompts
from annotationrun_worker.dataset.episodes import (
    EpisodeSummary,
    list_episodes,
    read_episode,
    select_episodes,
)
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, EpisodeRecord, Features
from annotationrun_worker.errors import IncompleteError
from annotationrun_worker.frames.fingerprint import episode_fingerprint
from annotationrun_worker.frames.provider import (
    FrameCounts,
    FrameProvider,
    FrameSettings,
    make_frame_provider,
)
from annotationrun_worker.merge.folder import MergePlan, MergeResult, merge_to_folder
from annotationrun_worker.rows import ResultName, StagedRow
from annotationrun_worker.run.annotate import AnnotateStep, Progress, allowed_failures
from annotationrun_worker.run.episode import EpisodeAnnotator, EpisodePolicy
from annotationrun_worker.run.existing_rows import ExistingRows, ExistingRowsReader
from annotationrun_worker.run.modules import Module, RunModules, enabled_modules
from annotationrun_worker.run.places import Places
from annotationrun_worker.run.preflight import check_before_asking
from annotationrun_worker.run.report import AnnotateReport, failure_text
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.results import read_result_now
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.client import ServerSettings, Usage, VlmClient
from annotationrun_worker.vlm.request import Sampling


@dataclass(frozen=True, slots=True)
class LocalEpisodes:
    """Episodes of a dataset in a folder."""

    root: Path
    info: Mapping[str, Any]
    summaries: Mapping[EpisodeIndex, EpisodeSummary]
    modules: RunModules
    frames: FrameProvider
    existing: ExistingRowsReader

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode, with the videos that any module looks at."""
        cameras = sorted({camera for module in self.modules.published for camera in module.cameras})
        return read_episode(self.root, self.info, self.summaries[index], cameras)

    def fingerprint(self, episode: EpisodeRecord, module: Module[ResultName]) -> Digest:
        """Digest of timestamps, task and the packets of the cameras that ``module`` looks at."""
        return Digest(episode_fingerprint(episode, module.cameras, self.frames.packet_digest))

    def existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        """What the episode's language columns hold already."""
        return self.existing.read(episode)


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What is run, and where."""

    spec: RunSpec
    places: Places


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    places: Places
    episodes: int
    annotated: AnnotateReport
    usage: Mapping[str, Usage]
    """By kind of question."""
    frames: FrameCounts
    merge: MergeResult


def run_local(run: LocalRun, progress: Progress) -> RunReport:
    """Annotate the dataset of ``run`` and write the annotated one.

    Raises:
        IncompleteError: more episodes failed than the manifest allows; nothing was written to the output,
            what succeeded is staged.
        AnnotationRunError: what else stops a run, see ``errors.py``.
    """
    spec, places = run.spec, run.places
    info = read_info(places.source)
    features = read_features(info)
    chosen = select_episodes(list_episodes(places.source, info), spec.source.episode_ranges)
    summaries = {summary.index: summary for summary in chosen}
    source_identity = check_before_asking(spec, places, chosen)
    store = StagingStore(places.staging)
    prompts = make_prompts(spec.prompts, spec.output_language)
    report = AnnotateReport()
    with closing(_open_frames(features, spec)) as frames:
        modules = enabled_modules(spec, frames, prompts, report.warnings.append)
        annotator = EpisodeAnnotator(
            episodes=LocalEpisodes(places.source, info, summaries, modules, frames, ExistingRowsReader()),
            modules=modules,
            frames=frames,
            store=store,
            prompts=prompts,
            model=_model_identity(spec),
            seed=spec.seed,
            policy=EpisodePolicy(
                attempts=spec.workers.episode_attempts,
                max_holes_percent=spec.failure_policy.max_holes_percent,
                existing_rows=spec.output.existing_rows,
            ),
        )
        allowed = allowed_failures(spec.failure_policy.max_failed_episodes, len(chosen))
        step = AnnotateStep(annotator, spec.workers.episode_concurrency, report, allowed)
        longest_first = sorted(summaries, key=lambda index: (-summaries[index].length, index))
        usage = asyncio.run(_annotate(step, spec, places, longest_first, progress))
        frame_counts = frames.counts
    if step.has_too_many_failures:
        raise IncompleteError(failure_text(report, len(chosen), allowed))
    merged = merge_to_folder(_merge_plan(step, spec, places, source_identity))
    return RunReport(places, len(chosen), step.report, usage, frame_counts, merged)


async def _annotate(
    step: AnnotateStep, spec: RunSpec, places: Places, indices: Sequence[EpisodeIndex], progress: Progress
) -> Mapping[str, Usage]:
    client = VlmClient(
        ServerSettings(
            base_urls=places.endpoints,
            model=spec.model.id,
            request_timeout_seconds=spec.model.request_timeout_seconds,
            requests_in_flight=spec.workers.request_concurrency,
            structured_outputs=spec.model.structured_outputs,
            context_tokens=spec.model.context_tokens,
        )
    )
    try:
        asker = Asker(client, step.annotator.store, _sampling(spec), spec.model.revision)
        await step.run(indices, asker, progress)
    finally:
        await client.close()
    return dict(client.usage)


def _open_frames(features: Features, spec: RunSpec) -> FrameProvider:
    camera = spec.frames.default_camera
    return make_frame_provider(
        features,
        FrameSettings(
            backend=spec.frames.backend,
            default_camera=None if camera is None else CameraKey(camera),
            cache_bytes=spec.frames.cache_bytes,
            tolerance_seconds=spec.frames.tolerance_seconds,
        ),
    )


def _sampling(spec: RunSpec) -> Sampling:
    return Sampling(
        model=spec.model.id,
        temperature=spec.model.temperature,
        seed=spec.seed,
        max_tokens=spec.model.max_output_tokens,
        chat_template_kwargs=spec.model.chat_template_args,
        reasoning_effort=spec.model.reasoning_effort,
    )


def _model_identity(spec: RunSpec) -> dict[str, Any]:
    """What a result depends on of model and sampling; where and how it is served is no part of it."""
    return {**asdict(_sampling(spec)), "revision": spec.model.revision}


def _merge_plan(step: AnnotateStep, spec: RunSpec, places: Places, source_identity: Digest) -> MergePlan:
    module_of_key = {key: module for keys in step.keys.values() for module, key in keys.items()}

    def read_rows(key: str) -> Sequence[StagedRow]:
        return read_result_now(step.annotator.store, module_of_key[Digest(key)], Digest(key)).rows

    return MergePlan(
        source=places.source,
        output=places.output,
        results=step.keys,
        read_rows=read_rows,
        source_identity=source_identity,
        existing_rows=spec.output.existing_rows,
        settings_digests={
            module.name: digest_json(module.settings) for module in step.annotator.modules.published
        },
        failed_episodes=step.report.failed_episodes,
    )
