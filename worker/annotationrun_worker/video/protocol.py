"""What the modules ask of a frame provider, and the answer for datasets without cameras.

What the modules ask of a frame provider.

For datasets without cameras: whoever wants to see gets an error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeRecord
from annotationrun_worker.errors import NoCamerasError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """What happened so far; ``asked == decoded + from_cache + failed``."""

    asked: int = 0
    decoded: int = 0
    from_cache: int = 0
    """Duplicates within one call included."""
    failed: int = 0
    """All frames of each call that failed while decoding."""
    fallback_files: int = 0
    """Videos that backend ``auto`` had to decode with the ffmpeg program; each process counts its own."""

    def __add__(self, other: "FrameCounts") -> "FrameCounts":
        """Both together."""
        return FrameCounts(
            asked=self.asked + other.asked,
            decoded=self.decoded + other.decoded,
            from_cache=self.from_cache + other.from_cache,
            failed=self.failed + other.failed,
            fallback_files=self.fallback_files + other.fallback_files,
        )


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

    def frame_bytes(self, camera: CameraKey, tile_width_pixels: int | None = None) -> int:
        """Bytes of a decoded frame of ``camera``, or of a tile of it; 0 where the dataset has no camera.

        Raises:
            UnknownCameraError: the dataset has others, and none of that name.
        """

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> "Tensor":
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
    ) -> "Tensor":
        """Give the frames with these numbers (0-based in the episode); else as ``frames_at``.

        Raises:
            IndexError: the episode has no frame of that number.
        """

    def pictures_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> NDArray[np.uint8]:
        """The same frames as uint8 (frames, height, width, 3), RGB: what the prompts are made of.

        Raises:
            IndexError: the episode has no frame of that number; else as ``frames_at``.
        """

    def tiles_by_index(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        width_pixels: int,
        camera: CameraKey | None = None,
    ) -> NDArray[np.uint8]:
        """The same frames as tiles: uint8 (frames, tile height, ``width_pixels``, 3), RGB; see ``TileSize``.

        Raises:
            IndexError: the episode has no frame of that number; else as ``frames_at``.
        """

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> "Tensor":
        """Give at most ``max_frames`` frames, spread evenly with both ends; one is the first.

        All of them if there are no more. Returns and raises as ``frames_at``.
        """

    def episode_clip_path(self, episode: EpisodeRecord, camera: CameraKey | None = None) -> Path:
        """Make a video of the whole episode, or find the one made before.

        H.264, yuv420p, no sound, padded to an even size; frame i is shown at its timestamp less the first
        one's. The path is ``<clip folder>/<camera>/<fingerprint>/ep_000123.mp4``.

        Raises:
            FrameDecodeError: a frame can't be decoded, or making the video takes longer than 300 s.
            StorageError: the video can't be written.
        """

    def frames_clip_path(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        fps: float,
        camera: CameraKey | None = None,
    ) -> Path:
        """Make a video of the chosen frames (rising), one after the other at ``fps``; else as above.

        The same frames give the same bytes.

        Raises:
            IndexError: the episode has no frame of that number.
        """

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """SHA-256 (hex) over the coded pictures of the episode, as they are stored; nothing is decoded.

        Of a video the packets in [from - half a frame, to - half a frame), in PTS (``VideoFile``); of a
        camera in the rows the coded pictures in row order (``ImageFile``).

        Raises:
            UnknownCameraError: the dataset has no camera of that name.
            FrameDecodeError: they can't be read.
            NoCamerasError: the dataset has no camera.
        """

    def close(self) -> None:
        """Free the decoder and its processes; nothing can be asked afterwards."""


class NullFrameProvider:
    """For datasets whose metadata list no camera, and for no other reason: no frame, but an error."""

    @property
    def camera_keys(self) -> tuple[CameraKey, ...]:
        """None."""
        return ()

    @property
    def default_camera(self) -> CameraKey:
        """Always NoCamerasError."""
        raise_no_cameras()

    @property
    def counts(self) -> FrameCounts:
        """Nothing ever happens."""
        return FrameCounts()

    def frame_bytes(self, camera: CameraKey, tile_width_pixels: int | None = None) -> int:
        """Always 0: there are no frames."""
        return 0

    def frames_at(
        self, episode: EpisodeRecord, timestamps_seconds: Sequence[float], camera: CameraKey | None = None
    ) -> "Tensor":
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def frames_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> "Tensor":
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def pictures_by_index(
        self, episode: EpisodeRecord, frame_indices: Sequence[int], camera: CameraKey | None = None
    ) -> NDArray[np.uint8]:
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def tiles_by_index(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        width_pixels: int,
        camera: CameraKey | None = None,
    ) -> NDArray[np.uint8]:
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def video_for_episode(
        self, episode: EpisodeRecord, max_frames: int, camera: CameraKey | None = None
    ) -> "Tensor":
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def episode_clip_path(self, episode: EpisodeRecord, camera: CameraKey | None = None) -> Path:
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def frames_clip_path(
        self,
        episode: EpisodeRecord,
        frame_indices: Sequence[int],
        fps: float,
        camera: CameraKey | None = None,
    ) -> Path:
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def packet_digest(self, episode: EpisodeRecord, camera: CameraKey) -> str:
        """Always NoCamerasError."""
        raise_no_cameras(episode)

    def close(self) -> None:
        """Nothing to free."""


def raise_no_cameras(episode: EpisodeRecord | None = None) -> NoReturn:
    """Say that there is nothing to look at; ``episode`` is the one whose frames were asked for.

    Raises:
        NoCamerasError: always.
    """
    whose = "" if episode is None else f"frames of episode {episode.index} were asked for, but "
    raise NoCamerasError(
        f"{whose}the dataset has no camera: meta/info.json names no feature of dtype 'video' or 'image' "
        "beside depth, and every module looks at frames; name another dataset in spec.source"
    )
