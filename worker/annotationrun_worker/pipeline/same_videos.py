"""Whether an episode's videos are the same in the source and in the output as it is.

Rows that a merge takes over speak of frames that somebody saw. Columns may be the same where a video was
replaced, or where episodes were numbered anew; so the videos are compared too: files that are the same count
as such, of others the compressed packets of the episode are read.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from annotationrun_worker.dataset.episodes import EpisodeReader, EpisodeSummary, list_episodes
from annotationrun_worker.dataset.layout import DatasetFiles
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey, VideoSpan
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.pipeline.fetched_frames import fetched
from annotationrun_worker.pipeline.wiring import LocalRun, OpenDataset, open_staging
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.video.protocol import FrameProvider
from annotationrun_worker.video.provider import FrameSettings, make_frame_provider


@dataclass(frozen=True)
class VideoFiles:
    """The videos of a dataset."""

    files: DatasetFiles
    store: StagingStore
    """Holds what stretches of files on the Hub hash to."""
    backend: str
    """``spec.frames.backend``."""
    listed: OpenDataset | None = None
    """The dataset, where its metadata has been read; ``None``: it is read when it is needed."""

    @cached_property
    def episodes(self) -> Mapping[int, EpisodeSummary]:
        """By index.

        Raises:
            DatasetError: the metadata can't be read.
        """
        found = list_episodes(self.files.root, self._info) if self.listed is None else self.listed.episodes
        return {int(summary.index): summary for summary in found}

    def packet_digest(self, summary: EpisodeSummary, camera: CameraKey) -> str:
        """SHA-256 (hex) over the compressed packets of an episode and camera.

        Raises:
            DatasetError: they, or the episode's rows, can't be read.
            HubAccessError, HubUnavailableError, StorageError: they can't be fetched.
        """
        return self._frames.packet_digest(self._reader.read(summary, [camera]), camera)

    def close(self) -> None:
        """End the child processes."""
        if "_frames" in self.__dict__:
            self._frames.close()

    @cached_property
    def _info(self) -> Mapping[str, object]:
        return read_info(self.files.root) if self.listed is None else self.listed.info

    @cached_property
    def _reader(self) -> EpisodeReader:
        return EpisodeReader(self.files.root, self._info, self.files)

    @cached_property
    def _frames(self) -> FrameProvider:
        return make_frame_provider(
            read_features(self._info),
            FrameSettings(backend=self.backend),
            lambda decoders: fetched(decoders, self.files, self.store),
        )


@dataclass(frozen=True)
class SameVideos:
    """Compares the videos of the source with those that the output has."""

    source: VideoFiles
    there: VideoFiles
    default_camera: CameraKey | None

    def __call__(self, index: int, cameras: Collection[str | None]) -> bool:
        """Whether the episode has the same videos in both, as far as both have these ``cameras``.

        Rows that name no camera were made of the default one, by us or by others.

        Raises:
            DatasetError: the metadata of one can't be read.
            HubAccessError, HubUnavailableError, StorageError: a video can't be fetched.
        """
        ours, theirs = self.source.episodes.get(index), self.there.episodes.get(index)
        if ours is None or theirs is None:
            return False
        named = {self.default_camera if camera is None else camera for camera in cameras}
        return all(
            self._is_same_stretch(ours.videos[camera], theirs.videos[camera])
            or self._have_same_packets(ours, theirs, camera)
            for camera in ours.videos.keys() & theirs.videos.keys()
            if camera in named
        )

    def _is_same_stretch(self, ours: VideoSpan, theirs: VideoSpan) -> bool:
        times = [(span.from_timestamp_seconds, span.to_timestamp_seconds) for span in (ours, theirs)]
        if times[0] != times[1]:
            return False
        known = self.source.files.sha256_of(ours.path), self.there.files.sha256_of(theirs.path)
        if None not in known:
            return known[0] == known[1]
        return _is_same_file(ours.path, theirs.path)

    def _have_same_packets(self, ours: EpisodeSummary, theirs: EpisodeSummary, camera: CameraKey) -> bool:
        try:
            return self.source.packet_digest(ours, camera) == self.there.packet_digest(theirs, camera)
        except DatasetError:
            return False  # what can't be read is no frame that rows may speak of


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether both are one file, or of one size and time of change, which merges keep when they copy."""
    try:
        first, second = one.stat(), other.stat()
    except OSError:
        return False
    if (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino):
        return True
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)


@contextmanager
def compared_videos(run: LocalRun, dataset: OpenDataset, there: DatasetFiles) -> Iterator[SameVideos]:
    """The comparison of the source of ``run`` and what is in the place of the output.

    Nothing is read before it is asked for; its child processes end with the context.
    """
    store, backend = open_staging(run), run.spec.frames.backend
    with (
        closing(VideoFiles(dataset.files, store, backend, dataset)) as ours,
        closing(VideoFiles(there, store, backend)) as theirs,
    ):
        named, cameras = run.spec.frames.default_camera, dataset.features.cameras
        default = next(iter(cameras), None) if named is None else CameraKey(named)
        yield SameVideos(ours, theirs, default)
