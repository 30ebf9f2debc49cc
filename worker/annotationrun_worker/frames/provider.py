"""Frames for the modules: by time, in the order asked for, cached, or an error; never fewer than asked."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord, Features, VideoSpan
from annotationrun_worker.errors import (
    FrameDecodeError,
    NoCamerasError,
    TimestampOutOfRangeError,
    UnknownCameraError,
)
from annotationrun_worker.frames.cache import ByteBoundedCache
from annotationrun_worker.frames.decoder import Decoder, EpisodeVideo, make_decoder
from annotationrun_worker.frames.timestamps import (
    local_gaps,
    snap,
    target_pts_seconds,
    tolerances_seconds,
    uniform_indices,
)

_LOG = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024 * 1024
"""Decoded in one request to the child: keeps what is under way small however many frames are asked for."""


@dataclass(frozen=True, slots=True)
class FrameSettings:
    """How frames are decoded and kept; the manifest's ``frames``."""

    backend: str = "auto"
    default_camera: CameraKey | None = None
    """None: the first camera of the dataset."""
    cache_bytes: int = 1024**3
    tolerance_seconds: float = 0.01
    """Largest distance between the PTS of a decoded frame and its target."""


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What happened so far; ``asked == decoded + from_cache + failed``."""

    asked: int = 0
    decoded: int = 0
    from_cache: int = 0
    """Duplicates within one call included."""
    failed: int = 0
    """All frames of each call that failed while decoding."""


class FrameProvider(Protocol):
    """Gives decoded frames of episodes; safe for any number of threads."""

    @property
    def camera_keys(self) -> tuple[CameraKey, ...]:
        """The cameras, in the order of ``info.json``; empty without any."""

    @property
    def default_camera(self) -> CameraKey:
        """The camera that is used where none is named.

        Raises:
            NoCamerasError: the dataset has no camera.
        """

    @property
    def counts(self) -> FrameCounts:
        """What happened so far."""

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> Tensor:
        """Give the frame nearest to each time, in the order asked for.

        Times count from the start of the episode. Returns uint8 of shape
        (len(timestamps_seconds), 3, height, width), RGB, on the CPU, the caller's own. Duplicates decode
        once.

        Raises:
            TimestampOutOfRangeError: a time is further from any frame than half the local gap.
            UnknownCameraError: the dataset has no camera of that name.
            FrameDecodeError: one of the frames can't be decoded.
            NoCamerasError: the dataset has no camera.
        """

    def frames_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> Tensor:
        """Give the frames with these numbers (0-based in the episode); else as ``frames_at``.

        Raises:
            IndexError: the episode has no frame of that number.
        """

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> Tensor:
        """Give at most ``max_frames`` frames, spread evenly with both ends; one is the first.

        All of them if there are no more. Returns and raises as ``frames_at``.
        """

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """SHA-256 (hex) over the compressed packets of the episode; see ``VideoFile.packets_sha256``.

        The span is [from - half a frame, to - half a frame), in PTS.

        Raises:
            UnknownCameraError: the dataset has no camera of that name.
            FrameDecodeError: the packets can't be read.
            NoCamerasError: the dataset has no camera.
        """

    def close(self) -> None:
        """Free the decoder and its processes; nothing can be asked afterwards."""


class VideoFrameProvider:
    """Frames of cameras that are stored as videos."""

    def __init__(self, features: Features, settings: FrameSettings, decoder: Decoder) -> None:
        """Take over ``decoder``: closing the provider closes it.

        Raises:
            UnknownCameraError: ``settings.default_camera`` is not a camera of the dataset.
        """
        self._features = features
        self._tolerance_seconds = settings.tolerance_seconds
        self._decoder = decoder
        self._default_camera = self._known(settings.default_camera or features.cameras[0])
        self._cache: ByteBoundedCache[tuple[int, CameraKey, int], Tensor] = ByteBoundedCache(
            settings.cache_bytes
        )
        self._digests: dict[tuple[int, CameraKey], str] = {}
        # Held while decoding, so that callers who want the same frames find them in the cache.
        self._decoding = threading.Lock()
        self._counting = threading.Lock()
        self._counts = FrameCounts()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def camera_keys(self) -> tuple[CameraKey, ...]:
        """See ``FrameProvider.camera_keys``."""
        return self._features.cameras

    @property
    def default_camera(self) -> CameraKey:
        """See ``FrameProvider.default_camera``."""
        return self._default_camera

    @property
    def counts(self) -> FrameCounts:
        """See ``FrameProvider.counts``."""
        with self._counting:
            return self._counts

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> Tensor:
        """See ``FrameProvider.frames_at``."""
        try:
            indices = snap(episode.timestamps_seconds, timestamps_seconds, episode.fps)
        except TimestampOutOfRangeError as error:
            raise TimestampOutOfRangeError(f"episode {episode.index}: {error}") from error
        return self._frames(episode, indices, camera)

    def frames_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> Tensor:
        """See ``FrameProvider.frames_by_index``."""
        for index in frame_indices:
            if not 0 <= index < episode.frame_count:
                raise IndexError(
                    f"episode {episode.index} has no frame {index}, "
                    f"its frames are 0 to {episode.frame_count - 1}"
                )
        return self._frames(episode, np.asarray(frame_indices, dtype=np.int64), camera)

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> Tensor:
        """See ``FrameProvider.video_for_episode``."""
        return self._frames(episode, uniform_indices(episode.frame_count, max_frames), camera)

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """See ``FrameProvider.packet_digest``."""
        video = self._video(episode, camera)
        key = (int(episode.index), camera)
        if key not in self._digests:
            half_frame = 0.5 / episode.fps
            self._digests[key] = self._decoder.packet_digest(
                video,
                video.span.from_timestamp_seconds - half_frame,
                video.span.to_timestamp_seconds - half_frame,
            )
        return self._digests[key]

    def close(self) -> None:
        """See ``FrameProvider.close``."""
        self._decoder.close()

    def _frames(self, episode: EpisodeRecord, indices: NDArray[np.int64], camera: CameraKey | None) -> Tensor:
        video = self._video(episode, camera if camera is not None else self._default_camera)
        wanted = [int(index) for index in np.unique(indices)]
        found = self._cached(episode, video.camera, wanted)
        decoded = 0
        if len(found) < len(wanted):
            with self._decoding:
                found |= self._cached(
                    episode, video.camera, [index for index in wanted if index not in found]
                )
                missing = [index for index in wanted if index not in found]
                try:
                    found |= self._decoded(episode, video, missing)
                except FrameDecodeError as error:
                    self._count_failure(len(indices), error)
                    raise
                decoded = len(missing)
        self._count(FrameCounts(asked=len(indices), decoded=decoded, from_cache=len(indices) - decoded))
        if not len(indices):
            width, height = self._features.camera_sizes[video.camera]
            return torch.empty((0, 3, height, width), dtype=torch.uint8)
        return torch.from_numpy(np.stack([found[int(index)].numpy() for index in indices]))

    def _cached(self, episode: EpisodeRecord, camera: CameraKey, indices: Sequence[int]) -> dict[int, Tensor]:
        held = {index: self._cache.get((int(episode.index), camera, index)) for index in indices}
        return {index: frame for index, frame in held.items() if frame is not None}

    def _decoded(
        self, episode: EpisodeRecord, video: EpisodeVideo, indices: Sequence[int]
    ) -> dict[int, Tensor]:
        """Decode the frames (rising indices), and keep them in the cache."""
        width, height = self._features.camera_sizes[video.camera]
        gaps = local_gaps(episode.timestamps_seconds, episode.fps)
        targets = target_pts_seconds(episode.timestamps_seconds, video.span.from_timestamp_seconds)
        tolerances = tolerances_seconds(gaps, self._tolerance_seconds)
        batch_frames = max(BATCH_BYTES // (3 * height * width), 1)
        frames: dict[int, Tensor] = {}
        for start in range(0, len(indices), batch_frames):
            batch = np.asarray(indices[start : start + batch_frames])
            pictures = self._decoder.frames(video, targets[batch], tolerances[batch])
            if pictures.shape[1:3] != (height, width):
                raise FrameDecodeError(
                    f"{video.at(targets[batch[0]], targets[batch[-1]])}: the frames are "
                    f"{pictures.shape[2]} x {pictures.shape[1]} pixels, "
                    f"but meta/info.json says {width} x {height}"
                )
            for index, picture in zip(batch.tolist(), pictures, strict=True):
                # A tensor of its own: a view would keep the whole batch in memory.
                # By numpy, as torch would set its threads to work against the decoder's.
                frame = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
                frames[index] = frame
                self._cache.put((int(episode.index), video.camera, index), frame, frame.nbytes)
        return frames

    def _video(self, episode: EpisodeRecord, camera: CameraKey) -> EpisodeVideo:
        span: VideoSpan | None = episode.videos.get(self._known(camera))
        if span is None:
            raise UnknownCameraError(
                f"episode {episode.index} was read without camera {camera!r}, "
                f"only with {list(episode.videos)}"
            )
        return EpisodeVideo(episode.index, camera, span)

    def _known(self, camera: CameraKey) -> CameraKey:
        if camera not in self._features.cameras:
            raise UnknownCameraError(
                f"the dataset has no camera {camera!r}; its cameras are {list(self._features.cameras)}"
            )
        return camera

    def _count(self, more: FrameCounts) -> None:
        with self._counting:
            so_far = self._counts
            self._counts = FrameCounts(
                asked=so_far.asked + more.asked,
                decoded=so_far.decoded + more.decoded,
                from_cache=so_far.from_cache + more.from_cache,
                failed=so_far.failed + more.failed,
            )

    def _count_failure(self, frames: int, error: FrameDecodeError) -> None:
        level = logging.DEBUG if self.counts.failed else logging.ERROR
        self._count(FrameCounts(asked=frames, failed=frames))
        _LOG.log(level, "frames can't be decoded (the first is logged, all are counted): %s", error)


class NullFrameProvider:
    """For datasets whose metadata list no camera, and for no other reason: no frame, but an error."""

    @property
    def camera_keys(self) -> tuple[CameraKey, ...]:
        """None."""
        return ()

    @property
    def default_camera(self) -> CameraKey:
        """Always NoCamerasError."""
        _raise_no_cameras()

    @property
    def counts(self) -> FrameCounts:
        """Nothing ever happens."""
        return FrameCounts()

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> Tensor:
        """Always NoCamerasError."""
        _raise_no_cameras(episode)

    def frames_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> Tensor:
        """Always NoCamerasError."""
        _raise_no_cameras(episode)

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> Tensor:
        """Always NoCamerasError."""
        _raise_no_cameras(episode)

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """Always NoCamerasError."""
        _raise_no_cameras(episode)

    def close(self) -> None:
        """Nothing to free."""


def _raise_no_cameras(episode: EpisodeRecord | None = None) -> NoReturn:
    whose = "" if episode is None else f"frames of episode {episode.index} were asked for, but "
    raise NoCamerasError(f"{whose}the dataset has no camera; switch off the modules that must see")


def make_frame_provider(features: Features, settings: FrameSettings) -> FrameProvider:
    """Make the provider for a dataset with these features; the caller closes it.

    Raises:
        UnknownCameraError: ``settings.default_camera`` is not a camera of the dataset.
        ConfigurationError: there is no backend of that name.
    """
    if features.cameras:
        return VideoFrameProvider(features, settings, make_decoder(settings.backend))
    if settings.default_camera is not None:
        raise UnknownCameraError(
            f"frames.defaultCamera is {settings.default_camera!r}, but the dataset has no camera"
        )
    return NullFrameProvider()
