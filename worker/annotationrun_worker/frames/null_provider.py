"""For datasets without cameras: whoever wants to see gets an error."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord
from annotationrun_worker.errors import NoCamerasError
from annotationrun_worker.frames.protocol import FrameCounts

if TYPE_CHECKING:
    from torch import Tensor


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
