"""A run, opened: its dataset looked at, its staging store named, its modules resolved."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from annotationrun_api.spec import RunSpec
from annotationrun_worker.dataset.episodes import (
    EpisodeReader,
    EpisodeSummary,
    list_episodes,
    select_episodes,
)
from annotationrun_worker.dataset.layout import DatasetFiles
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, EpisodeRecord, Features, quick_parts
from annotationrun_worker.language.columns import LANGUAGE_COLUMNS
from annotationrun_worker.language.rows import ResultName
from annotationrun_worker.modules.base import make_prompts, override_warnings
from annotationrun_worker.modules.prompt_media import cameras_shown_whole
from annotationrun_worker.pipeline.annotate import AnnotateStep, StepLimits, allowed_failures
from annotationrun_worker.pipeline.capacity import server_needs
from annotationrun_worker.pipeline.config import HubPlace, Places
from annotationrun_worker.pipeline.episode import EpisodeAnnotator
from annotationrun_worker.pipeline.estimate import requests_at_once
from annotationrun_worker.pipeline.fetched_frames import fetched
from annotationrun_worker.pipeline.hub_source import HubAccess, ModelRevision, open_source
from annotationrun_worker.pipeline.modules import Module, RunModules, enabled_modules
from annotationrun_worker.pipeline.report import AnnotateReport
from annotationrun_worker.pipeline.result_maker import (
    EpisodePolicy,
    ExistingRows,
    ExistingRowsReader,
    ResultBasis,
)
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.progress import EpisodeMarks
from annotationrun_worker.staging.results import ResultIndex
from annotationrun_worker.staging.seal import NO_SEAL, Seal
from annotationrun_worker.staging.store import StagingStore, open_store
from annotationrun_worker.video.provider import (
    FrameProvider,
    FrameSettings,
    episode_fingerprint,
    make_frame_provider,
)
from annotationrun_worker.vlm.request import Sampling, ServerNeeds
from annotationrun_worker.vlm.server import NO_API_KEY


@dataclass(frozen=True, slots=True)
class LocalRun:
    """What is run, and where."""

    spec: RunSpec
    places: Places
    name: str = ""
    """Of the run, for people."""
    limit: int | None = None
    """Only so many of the selected episodes, the first ones; ``None``: all."""
    api_key: str = field(default=NO_API_KEY, repr=False)
    """Of the model servers."""
    seal: Seal = NO_SEAL
    """Of what is staged."""
    start_timeout_seconds: float = 0
    """How long a model server may take until it is there; 0: what is not there is an error at once."""
    media_folder: Path | None = None
    """Pictures and clips go as files in it, which the model servers read too; ``None``: within requests."""
    account: str | None = None
    """Under which requests and tokens are counted; ``None``: under the plan's digest."""
    gpus: int = 0
    """Held by the model server beside this process; 0: none, or not known."""
    hub: HubAccess = field(default_factory=HubAccess)
    """How the Hub is reached, for places there."""
    warnings: tuple[str, ...] = ()
    """What the manifest asks for that has no effect here."""
    found_revision: ModelRevision | None = None
    """What ``spec.model.revision`` stands for; ``None``: for itself."""

    @property
    def model_revision(self) -> ModelRevision:
        """What ``spec.model.revision`` stands for."""
        return self.found_revision or ModelRevision(self.spec.model.revision)

    @property
    def is_in_place(self) -> bool:
        """Whether the output takes the place of the source."""
        source, output = self.places.source, self.places.output
        if isinstance(source, HubPlace) and isinstance(output, HubPlace):
            return source.repo_id == output.repo_id and self.spec.source.revision == output.revision
        return source == output


@dataclass(frozen=True, slots=True)
class LocalEpisodes:
    """Episodes of a dataset in a folder."""

    reader: EpisodeReader
    summaries: Mapping[EpisodeIndex, EpisodeSummary]
    modules: RunModules
    frames: FrameProvider
    existing: ExistingRowsReader
    files: DatasetFiles

    def read(self, index: EpisodeIndex) -> EpisodeRecord:
        """The episode, with the videos that any module looks at."""
        cameras = sorted({camera for module in self.modules.published for camera in module.cameras})
        return self.reader.read(self.summaries[index], cameras)

    def fingerprint(self, episode: EpisodeRecord, module: Module[ResultName]) -> Digest:
        """Digest of timestamps, task and the packets of the cameras that ``module`` looks at."""
        return Digest(episode_fingerprint(episode, module.cameras, self.frames.packet_digest))

    def quick_parts(self, episode: EpisodeRecord) -> Mapping[str, str]:
        """What the quick fingerprints of ``episode`` are made of."""
        return quick_parts(episode, [*episode.videos, *episode.images], self.files.version_of)

    def existing_rows(self, episode: EpisodeRecord) -> ExistingRows:
        """What the episode's language columns hold already."""
        with self.files.using(episode.data_path):
            return self.existing.read(episode)


@dataclass(frozen=True, slots=True)
class OpenDataset:
    """A run's dataset, its metadata read."""

    files: DatasetFiles
    info: Mapping[str, Any]
    features: Features
    episodes: Sequence[EpisodeSummary]
    """All that it lists, in order of index."""
    chosen: Sequence[EpisodeSummary]
    """The selected ones, in order of index."""

    def with_tasks(self, tasks: Mapping[int, str]) -> "OpenDataset":
        """The same, ``tasks`` being those of some episodes, by index."""
        chosen = [
            replace(episode, tasks=(tasks[episode.index],)) if episode.index in tasks else episode
            for episode in self.chosen
        ]
        return replace(self, chosen=chosen)

    @property
    def has_language_columns(self) -> bool:
        """Whether it says that there are rows of language already."""
        return any(name in self.info["features"] for name in LANGUAGE_COLUMNS)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def longest_first(self) -> list[EpisodeSummary]:
        """The selected episodes in the order of work."""
        return sorted(self.chosen, key=lambda episode: (-episode.length, episode.index))


@contextmanager
def open_dataset(run: LocalRun) -> Iterator[OpenDataset]:
    """The dataset of ``run``, its metadata read; of one on the Hub the files stay within the context.

    Raises:
        DatasetError: it is no LeRobot v3.0 dataset, or lacks a selected episode.
        HubAccessError, HubUnavailableError, StorageError: it can't be fetched.
    """
    with open_source(run.places.source, run.hub) as files:
        info = read_info(files.root)
        episodes = list_episodes(files.root, info)
        chosen = select_episodes(episodes, run.spec.source.episode_ranges)
        yield OpenDataset(files, info, read_features(info), episodes, chosen[: run.limit])


@contextmanager
def open_step(
    run: LocalRun, dataset: OpenDataset, plan: Digest, marks: EpisodeMarks | None = None
) -> Iterator[AnnotateStep]:
    """The annotate step of ``run``, its decoders open within the context.

    Args:
        run: the run.
        dataset: its dataset.
        plan: its plan.
        marks: where what is done is noted for others.

    Raises:
        NoCamerasError, UnknownCameraError: the frames that the run needs are not there.
        ConfigurationError: the settings can't give right labels.
    """
    spec = run.spec
    prompts = make_prompts(spec.prompts, spec.output_language)
    report = AnnotateReport(warnings=[*run.warnings, *override_warnings(spec.prompts)])
    summaries = {summary.index: summary for summary in dataset.chosen}
    store = open_staging(run)
    with closing(_open_frames(dataset, spec, store)) as frames:
        sizes = dataset.features.camera_sizes
        modules = enabled_modules(spec, frames, sizes, prompts, report.warnings.append)
        report.warnings += [
            f"spec.prompts.{name} has no effect: no enabled module asks with it"
            for name in sorted(spec.prompts.keys() - modules.prompt_names)
        ]
        basis = ResultBasis(
            episodes=LocalEpisodes(
                EpisodeReader(dataset.files.root, dataset.info, dataset.files),
                summaries,
                modules,
                frames,
                ExistingRowsReader(),
                dataset.files,
            ),
            frames=frames,
            store=store,
            prompts=prompts,
            model=model_identity(run),
            seed=spec.seed,
            policy=EpisodePolicy(
                attempts=spec.workers.episode_attempts,
                max_unanswered_percent=spec.failure_policy.max_unanswered_percent,
                existing_rows=spec.output.existing_rows,
                retry_token=spec.retry_token,
            ),
            plan=plan,
            index=ResultIndex(store),
        )
        limits = StepLimits(
            episodes=spec.workers.episode_concurrency,
            requests=spec.workers.request_concurrency,
            failures=allowed_failures(spec.failure_policy.max_failed_episodes, len(dataset.chosen)),
        )

        def at_once(index: EpisodeIndex) -> int:
            return requests_at_once(spec, summaries[index], dataset.fps, dataset.features)

        def needs() -> ServerNeeds:
            return server_needs(spec, make_sampling(spec), dataset.chosen, dataset.features)

        yield AnnotateStep(
            EpisodeAnnotator(basis, modules), limits, at_once, report, marks=marks, server_needs=needs,
            give_up=dataset.files.give_up, held_for=plan if dataset.files.commit else None,
        )  # fmt: skip


def open_marks(run: LocalRun, plan: Digest) -> EpisodeMarks:
    """The marks of the episodes of ``plan``, the plan of ``run``."""
    return EpisodeMarks(open_staging(run), plan, run.spec.retry_token)


def open_staging(run: LocalRun) -> StagingStore:
    """The staging store of ``run``; nothing is read or written yet."""
    return open_store(run.places.staging, run.seal)


def model_identity(run: LocalRun) -> dict[str, Any]:
    """What a result depends on of model and sampling; where and how it is served is no part of it."""
    return {**asdict(make_sampling(run.spec)), "revision": run.model_revision.name}


def result_settings(run: LocalRun, module: Module[ResultName]) -> Digest:
    """What the results of ``module`` depend on beside the episode and what they build on."""
    return digest_json(
        {
            "settings": module.settings,
            "prompts": module.prompts,
            "model": model_identity(run),
            "seed": run.spec.seed,
            "outputLanguage": run.spec.output_language,
        }
    )


def make_sampling(spec: RunSpec) -> Sampling:
    """How the model is asked."""
    return Sampling(
        model=spec.model.id,
        temperature=spec.model.temperature,
        seed=spec.seed,
        max_tokens=spec.model.max_output_tokens,
        chat_template_kwargs=spec.model.chat_template_args,
        reasoning_effort=spec.model.reasoning_effort,
    )


def _open_frames(dataset: OpenDataset, spec: RunSpec, store: StagingStore) -> FrameProvider:
    files = dataset.files
    camera = None if spec.frames.default_camera is None else CameraKey(spec.frames.default_camera)

    return make_frame_provider(
        dataset.features,
        FrameSettings(
            backend=spec.frames.backend,
            default_camera=camera,
            cache_bytes=spec.frames.cache_bytes,
            tolerance_seconds=spec.frames.tolerance_seconds,
            whole_cameras=cameras_shown_whole(spec.modules, dataset.features.cameras, camera),
        ),
        lambda decoders: fetched(decoders, files, store),
    )
