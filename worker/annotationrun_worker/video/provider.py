"""Frames for the modules, and the fingerprint of what they see.

The fingerprint of an episode: what the modules see of it, and nothing of where it lies.

Frames for the modules: by time, in the order asked for, cached, or an error; never fewer than asked.
"""

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeRecord, Features, ImageSpan, VideoSpan
from annotationrun_worker.errors import (
    ConfigurationError,
    FrameDecodeError,
    FrameSizeError,
    TimestampOutOfRangeError,
    UnknownCameraError,
)
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.clips import Clip, ClipStore, clip_of_episode, clip_of_frames
from annotationrun_worker.video.decoder import CHILDREN, Decoder, EpisodeVideo
from annotationrun_worker.video.frame_cache import Batch, ByteBoundedCache, CachedFrames, Shown
from annotationrun_worker.video.image_decoder import EpisodeImages, ImageDecoder, Images
from annotationrun_worker.video.protocol import FrameCounts, FrameProvider, NullFrameProvider
from annotationrun_worker.video.tiles import TileSize, tiles_of
from annotationrun_worker.video.timestamps import (
    local_gaps,
    snap,
    target_pts_seconds,
    tolerances_seconds,
    uniform_indices,
    within_span,
)

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = b"annotationrun episode fingerprint 1\n"
"""Changes with every change of what is hashed below."""

PacketDigest = Callable[[EpisodeRecord, CameraKey], str]
"""Gives the SHA-256 (hex) over the packets of an episode and camera; see ``FrameProvider.packet_digest``."""


def episode_fingerprint(
    episode: EpisodeRecord, cameras_used: Iterable[CameraKey], packet_digest: PacketDigest
) -> str:
    """SHA-256 (hex) over timestamps, task, frame rate and the compressed packets of the used cameras.

    Each part goes in after its length in bytes (uint64, little-endian): the timestamps (float32,
    little-endian), the task (UTF-8), the frame rate (float64, little-endian); then for each used camera,
    sorted by name: its name (UTF-8) and its packet digest (ASCII hex). No path, index, chunk or time of
    change is part of it.

    Raises:
        DatasetError: whatever ``packet_digest`` raises.
    """
    parts = [
        np.ascontiguousarray(episode.timestamps_seconds, dtype="<f4").tobytes(),
        episode.task.encode(),
        struct.pack("<d", episode.fps),
    ]
    for camera in sorted(set(cameras_used)):
        parts += [camera.encode(), packet_digest(episode, camera).encode("ascii")]
    digest = hashlib.sha256(FORMAT)
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.hexdigest()


__all__ = [
    "FrameCounts",
    "FrameProvider",
    "FrameSettings",
    "NullFrameProvider",
    "VideoFrameProvider",
    "make_frame_provider",
]

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
    whole_cameras: frozenset[CameraKey] = frozenset()
    """Those whose frames are looked at whole as well: their tiles are made of these, else the same frames
    would be decoded twice."""
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
        self._whole_cameras = settings.whole_cameras
        self._cached = CachedFrames(settings.cache_bytes, self._batches)
        self._digests: ByteBoundedCache[tuple[int, CameraKey], str] = ByteBoundedCache(DIGESTS_BYTES)

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
        return replace(self._cached.counts, fallback_files=self._decoder.fallback_files)

    def frame_bytes(self, camera: CameraKey, tile_width_pixels: int | None = None) -> int:
        """See ``FrameProvider.frame_bytes``."""
        width, height = self._features.camera_sizes[self._known(camera)]
        if tile_width_pixels is None:
            return 3 * width * height
        tile = TileSize(width, height, tile_width_pixels)
        return 3 * tile.width * tile.height

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> "Tensor":
        """See ``FrameProvider.frames_at``."""
        try:
            indices = snap(episode.timestamps_seconds, timestamps_seconds, episode.fps)
        except TimestampOutOfRangeError as error:
            raise TimestampOutOfRangeError(f"episode {episode.index}: {error}") from error
        return _as_tensor(self._cached.frames(self._shown(episode, camera), indices))

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
        return self._cached.frames(self._shown(episode, camera), frame_indices)

    def tiles_by_index(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        width_pixels: int,
        camera: CameraKey | None = None,
    ) -> NDArray[np.uint8]:
        """See ``FrameProvider.tiles_by_index``."""
        _check_indices(episode, frame_indices)
        whole = self._shown(episode, camera)
        if whole.camera in self._whole_cameras:
            together = max(BATCH_BYTES // math.prod(whole.shape), 1)
            parts = [frame_indices[at : at + together] for at in range(0, len(frame_indices), together)]
            return np.concatenate(
                [tiles_of(self._cached.frames(whole, part), width_pixels) for part in parts or [[]]]
            )
        tiles = replace(whole, tile=TileSize(*whole.frame_size, width_pixels))
        return self._cached.frames(tiles, frame_indices)

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> "Tensor":
        """See ``FrameProvider.video_for_episode``."""
        indices = uniform_indices(episode.frame_count, max_frames)
        return _as_tensor(self._cached.frames(self._shown(episode, camera), indices))

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

    def _batches(self, shown: Shown, indices: Sequence[int]) -> Iterator[Batch]:
        """Decode the frames (rising indices), some at a time."""
        episode, camera = shown.episode, shown.camera
        width, height = shown.frame_size
        batch_frames = max(BATCH_BYTES // max(3 * height * width, math.prod(shown.shape)), 1)
        for start in range(0, len(indices), batch_frames):
            batch = np.asarray(indices[start : start + batch_frames])
            try:
                if camera in self._features.image_cameras:
                    images = self._images(episode, camera)
                    times = _times(episode, batch)
                    pictures = self._image_decoder.frames(images, batch.tolist(), times, shown.tile)
                else:
                    pictures = self._decode_video(shown, batch)
            except FrameSizeError as error:
                raise _other_size(shown, batch, error.width, error.height) from error
            if pictures.shape[1:] != shown.shape:
                raise _other_size(shown, batch, pictures.shape[2], pictures.shape[1])
            yield batch.tolist(), pictures

    def _decode_video(self, shown: Shown, batch: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames (rising indices): uint8 of shape (frames, height, width, 3), RGB."""
        episode = shown.episode
        video = self._video(episode, shown.camera)
        gaps = local_gaps(episode.timestamps_seconds, episode.fps)
        targets = target_pts_seconds(episode.timestamps_seconds, video.span.from_timestamp_seconds)
        tolerances = tolerances_seconds(gaps, self._tolerance_seconds)
        wanted = targets[batch]
        reach = within_span(wanted, tolerances[batch], video.span, episode.fps)
        if reach.min() < 0:
            frame = int(batch[int(np.argmin(reach))])
            raise FrameDecodeError(
                f"{video.at(targets[frame], targets[frame])}: frame {frame} would lie outside of the "
                f"episode's span, {video.span.from_timestamp_seconds:.6f} to "
                f"{video.span.to_timestamp_seconds:.6f} s of the file"
            )
        return self._decoder.frames(video, wanted, reach, shown.tile)

    def _clip_path(self, episode: EpisodeRecord, clip: Clip, camera: CameraKey | None) -> Path:
        camera = self._known(camera if camera is not None else self._default_camera)
        fingerprint = episode_fingerprint(episode, [camera], self.packet_digest)

        def frames() -> Iterator[NDArray[np.uint8]]:
            # Past the cache, which is for frames that are wanted again; the clip is kept itself.
            for _, batch in self._batches(self._shown(episode, camera), clip.frame_indices):
                yield from batch

        return self._clips.path_of(clip, camera, fingerprint, frames)

    def _shown(self, episode: EpisodeRecord, camera: CameraKey | None) -> Shown:
        camera = self._known(self._default_camera if camera is None else camera)
        return Shown(episode, camera, self._features.camera_sizes[camera])

    def _video(self, episode: EpisodeRecord, camera: CameraKey) -> EpisodeVideo:
        span: VideoSpan | None = episode.videos.get(self._known(camera))
        if span is None:
            raise _read_without(episode, camera)
        size = self._features.camera_sizes[camera]
        return EpisodeVideo(episode.index, camera, span, episode.frame_count, size)

    def _images(self, episode: EpisodeRecord, camera: CameraKey) -> EpisodeImages:
        span: ImageSpan | None = episode.images.get(camera)
        if span is None:
            raise _read_without(episode, camera)
        return EpisodeImages(episode.index, camera, span, self._features.camera_sizes[camera])

    def _known(self, camera: CameraKey) -> CameraKey:
        if camera not in self._features.cameras:
            raise UnknownCameraError(
                f"the dataset has no camera {camera!r}; its cameras are {list(self._features.cameras)}"
            )
        return camera


def _as_tensor(pictures: NDArray[np.uint8]) -> "Tensor":
    """(n, height, width, 3) as a tensor (n, 3, height, width)."""
    # Imported where tensors are asked for: a run never does, and torch costs it 2 s and 500 MiB.
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "tensors need the package 'torch', which is not installed; pip install 'annotationrun[worker]', "
            "or ask for arrays (pictures_by_index)"
        ) from error
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


def _other_size(shown: Shown, indices: NDArray[np.int64], width: int, height: int) -> FrameDecodeError:
    told_width, told_height = shown.frame_size
    return FrameDecodeError(
        f"episode {shown.episode.index}, camera {shown.camera!r}, {_times(shown.episode, indices)}: the "
        f"frames are {width} x {height} pixels, but meta/info.json says {told_width} x {told_height}"
    )


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
