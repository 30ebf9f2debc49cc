"""Frames for the modules: by time, in the order asked for, cached, or an error; never fewer than asked."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord, Features, ImageSpan, VideoSpan
from annotationrun_worker.errors import FrameDecodeError, TimestampOutOfRangeError, UnknownCameraError
from annotationrun_worker.frames.backends import make_decoder
from annotationrun_worker.frames.cache import ByteBoundedCache
from annotationrun_worker.frames.clips import Clip, ClipStore, clip_of_episode, clip_of_frames
from annotationrun_worker.frames.decoder import CHILDREN, Decoder, EpisodeVideo
from annotationrun_worker.frames.fingerprint import episode_fingerprint
from annotationrun_worker.frames.image_decoder import EpisodeImages, ImageDecoder, Images
from annotationrun_worker.frames.keyed_locks import KeyedLocks
from annotationrun_worker.frames.null_provider import NullFrameProvider
from annotationrun_worker.frames.protocol import FrameCounts, FrameProvider
from annotationrun_worker.frames.timestamps import (
    local_gaps,
    snap,
    target_pts_seconds,
    tolerances_seconds,
    uniform_indices,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FrameCounts",
    "FrameProvider",
    "FrameSettings",
    "NullFrameProvider",
    "VideoFrameProvider",
    "make_frame_provider",
]

_LOG = logging.getLogger(__name__)

BATCH_BYTES = 64 * 1024 * 1024
"""Decoded in one request to the child: keeps what is under way small however many frames are asked for."""

DIGESTS_BYTES = 16 * 1024 * 1024
"""Of the packets' digests that are kept: those of 64 Ki episodes and cameras, ``DIGEST_BYTES`` each."""

DIGEST_BYTES = 256
"""Of one with its key, about."""


@dataclass(frozen=True, slots=True)
class FrameSettings:
    """How frames are decoded and kept; the manifest's ``frames``."""

    backend: str = "auto"
    default_camera: CameraKey | None = None
    """None: the first camera of the dataset."""
    cache_bytes: int = 1024**3
    tolerance_seconds: float = 0.01
    """Largest distance between the PTS of a decoded frame and its target."""
    clip_folder: Path | None = None
    """Where clips are kept. None: in a temporary folder that closing the provider removes."""


@dataclass(frozen=True, slots=True)
class Decoders:
    """What decodes the two kinds of cameras."""

    videos: Decoder
    images: Images


class VideoFrameProvider:
    """Frames of cameras that are stored as videos, or as pictures in the rows."""

    def __init__(
        self, features: Features, settings: FrameSettings, decoder: Decoder, images: Images | None = None
    ) -> None:
        """Take over the decoders, ``images`` for cameras in the rows: closing the provider closes them.

        Raises:
            UnknownCameraError: ``settings.default_camera`` is not a camera of the dataset.
        """
        self._features = features
        self._tolerance_seconds = settings.tolerance_seconds
        self._decoder = decoder
        self._image_decoder = ImageDecoder(CHILDREN) if images is None else images
        self._clips = ClipStore(settings.clip_folder)
        self._default_camera = self._known(settings.default_camera or features.cameras[0])
        self._cache: ByteBoundedCache[tuple[int, CameraKey, int], NDArray[np.uint8]] = ByteBoundedCache(
            settings.cache_bytes
        )
        self._digests: ByteBoundedCache[tuple[int, CameraKey], str] = ByteBoundedCache(DIGESTS_BYTES)
        # One an episode and camera, held while decoding: who wants the same frames finds them in the cache.
        self._decoding: KeyedLocks[tuple[int, CameraKey]] = KeyedLocks()
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
            return replace(self._counts, fallback_files=self._decoder.fallback_files)

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> "Tensor":
        """See ``FrameProvider.frames_at``."""
        try:
            indices = snap(episode.timestamps_seconds, timestamps_seconds, episode.fps)
        except TimestampOutOfRangeError as error:
            raise TimestampOutOfRangeError(f"episode {episode.index}: {error}") from error
        return _as_tensor(self._frames(episode, indices, camera))

    def frames_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> "Tensor":
        """See ``FrameProvider.frames_by_index``."""
        return _as_tensor(self.pictures_by_index(episode, frame_indices, camera))

    def pictures_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> NDArray[np.uint8]:
        """See ``FrameProvider.pictures_by_index``."""
        _check_indices(episode, frame_indices)
        return self._frames(episode, np.asarray(frame_indices, dtype=np.int64), camera)

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> "Tensor":
        """See ``FrameProvider.video_for_episode``."""
        return _as_tensor(self._frames(episode, uniform_indices(episode.frame_count, max_frames), camera))

    def episode_clip_path(self, episode: EpisodeRecord, camera: CameraKey | None = None) -> Path:
        """See ``FrameProvider.episode_clip_path``."""
        return self._clip_path(episode, clip_of_episode(episode), camera)

    def frames_clip_path(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        fps: float,
        camera: CameraKey | None = None,
    ) -> Path:
        """See ``FrameProvider.frames_clip_path``."""
        _check_indices(episode, frame_indices)
        return self._clip_path(episode, clip_of_frames(episode, frame_indices, fps), camera)

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """See ``FrameProvider.packet_digest``."""
        key = (int(episode.index), self._known(camera))
        digest = self._digests.get(key)
        if digest is None:
            if camera in self._features.image_cameras:
                digest = self._image_decoder.digest(self._images(episode, camera))
            else:
                video, half_frame = self._video(episode, camera), 0.5 / episode.fps
                digest = self._decoder.packet_digest(
                    video,
                    video.span.from_timestamp_seconds - half_frame,
                    video.span.to_timestamp_seconds - half_frame,
                )
            self._digests.put(key, digest, DIGEST_BYTES)
        return digest

    def close(self) -> None:
        """See ``FrameProvider.close``."""
        self._clips.close()
        self._image_decoder.close()
        self._decoder.close()

    def _frames(
        self, episode: EpisodeRecord, indices: NDArray[np.int64], camera: CameraKey | None
    ) -> NDArray[np.uint8]:
        camera = self._known(camera if camera is not None else self._default_camera)
        wanted = [int(index) for index in np.unique(indices)]
        found = self._cached(episode, camera, wanted)
        decoded = 0
        if len(found) < len(wanted):
            with self._decoding.held((int(episode.index), camera)):
                found |= self._cached(episode, camera, [index for index in wanted if index not in found])
                missing = [index for index in wanted if index not in found]
                try:
                    for index, frame in self._decoded(episode, camera, missing):
                        found[index] = frame
                        self._cache.put((int(episode.index), camera, index), frame, frame.nbytes)
                except FrameDecodeError as error:
                    self._count_failure(len(indices), error)
                    raise
                decoded = len(missing)
        self._count(FrameCounts(asked=len(indices), decoded=decoded, from_cache=len(indices) - decoded))
        if not len(indices):
            width, height = self._features.camera_sizes[camera]
            return np.empty((0, height, width, 3), dtype=np.uint8)
        return np.stack([found[int(index)] for index in indices])

    def _cached(
        self, episode: EpisodeRecord, camera: CameraKey, indices: Sequence[int]
    ) -> dict[int, NDArray[np.uint8]]:
        held = {index: self._cache.get((int(episode.index), camera, index)) for index in indices}
        return {index: frame for index, frame in held.items() if frame is not None}

    def _decoded(
        self, episode: EpisodeRecord, camera: CameraKey, indices: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode the frames (rising indices), some at a time."""
        width, height = self._features.camera_sizes[camera]
        batch_frames = max(BATCH_BYTES // (3 * height * width), 1)
        for start in range(0, len(indices), batch_frames):
            batch = np.asarray(indices[start : start + batch_frames])
            if camera in self._features.image_cameras:
                images = self._images(episode, camera)
                pictures = self._image_decoder.frames(images, batch.tolist(), _times(episode, batch))
            else:
                pictures = self._decode_video(episode, camera, batch)
            if pictures.shape[1:3] != (height, width):
                raise FrameDecodeError(
                    f"episode {episode.index}, camera {camera!r}, {_times(episode, batch)}: the frames are "
                    f"{pictures.shape[2]} x {pictures.shape[1]} pixels, "
                    f"but meta/info.json says {width} x {height}"
                )
            for index, picture in zip(batch.tolist(), pictures, strict=True):
                yield index, picture.copy()  # a view would keep the whole batch in memory

    def _decode_video(
        self, episode: EpisodeRecord, camera: CameraKey, batch: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """The frames (rising indices): uint8 of shape (frames, height, width, 3), RGB."""
        video = self._video(episode, camera)
        gaps = local_gaps(episode.timestamps_seconds, episode.fps)
        targets = target_pts_seconds(episode.timestamps_seconds, video.span.from_timestamp_seconds)
        tolerances = tolerances_seconds(gaps, self._tolerance_seconds)
        return self._decoder.frames(video, targets[batch], tolerances[batch])

    def _clip_path(self, episode: EpisodeRecord, clip: Clip, camera: CameraKey | None) -> Path:
        camera = self._known(camera if camera is not None else self._default_camera)
        fingerprint = episode_fingerprint(episode, [camera], self.packet_digest)

        def frames() -> Iterator[NDArray[np.uint8]]:
            # Past the cache, which is for frames that are wanted again; the clip is kept itself.
            for _, frame in self._decoded(episode, camera, clip.frame_indices):
                yield frame

        return self._clips.path_of(clip, camera, fingerprint, frames)

    def _video(self, episode: EpisodeRecord, camera: CameraKey) -> EpisodeVideo:
        span: VideoSpan | None = episode.videos.get(self._known(camera))
        if span is None:
            raise _read_without(episode, camera)
        return EpisodeVideo(episode.index, camera, span)

    def _images(self, episode: EpisodeRecord, camera: CameraKey) -> EpisodeImages:
        span: ImageSpan | None = episode.images.get(camera)
        if span is None:
            raise _read_without(episode, camera)
        return EpisodeImages(episode.index, camera, span)

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


def _as_tensor(pictures: NDArray[np.uint8]) -> "Tensor":
    """(n, height, width, 3) as a tensor (n, 3, height, width)."""
    # Imported where tensors are asked for: a run never does, and torch costs it 2 s and 500 MiB.
    import torch

    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def _check_indices(episode: EpisodeRecord, frame_indices: Sequence[int]) -> None:
    for index in frame_indices:
        if not 0 <= index < episode.frame_count:
            raise IndexError(
                f"episode {episode.index} has no frame {index}, its frames are 0 to {episode.frame_count - 1}"
            )


def _times(episode: EpisodeRecord, indices: NDArray[np.int64]) -> str:
    """``at 0.500 s`` or ``from 0.500 to 0.700 s``, in the episode's time."""
    first, last = (f"{episode.timestamps_seconds[index]:.3f}" for index in (indices[0], indices[-1]))
    return f"at {first} s" if first == last else f"from {first} to {last} s"


def _read_without(episode: EpisodeRecord, camera: CameraKey) -> UnknownCameraError:
    there = [*episode.videos, *episode.images]
    return UnknownCameraError(
        f"episode {episode.index} was read without camera {camera!r}, only with {there}"
    )


def make_frame_provider(
    features: Features, settings: FrameSettings, wrapped: Callable[[Decoders], Decoders] = lambda same: same
) -> FrameProvider:
    """Make the provider for a dataset with these features; the caller closes it.

    Args:
        features: of the dataset.
        settings: how frames are decoded and kept.
        wrapped: what stands before the decoders, such as the fetching of their files.

    Raises:
        UnknownCameraError: ``settings.default_camera`` is not a camera of the dataset.
        ConfigurationError: there is no backend of that name.
    """
    camera = settings.default_camera
    if camera is not None and camera not in features.cameras:
        there = (
            f"the dataset's cameras are {list(map(str, features.cameras))}; name one of these, "
            "or leave it out for the first"
            if features.cameras
            else "the dataset has no camera; leave it out"
        )
        raise UnknownCameraError(f"spec.frames.defaultCamera is {camera!r}, but {there}")
    if features.cameras:
        decoders = wrapped(Decoders(make_decoder(settings.backend), ImageDecoder(CHILDREN)))
        return VideoFrameProvider(features, settings, decoders.videos, decoders.images)
    return NullFrameProvider()
