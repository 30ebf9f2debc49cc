"""What the rest of the worker knows of a dataset, as values.

What the rest of the worker knows of a dataset: plain values, no I/O.

What stands for the content of an episode without reading a frame of it.

It is to the fingerprint what rsync's quick check (size and time) is to its checksum: episodes with the same
quick fingerprint are the same, as long as nobody tampers with times; those with another one may be so too.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NewType

import numpy as np
from numpy.typing import NDArray

FRAME_PIXELS_LIMIT = 40_000_000
"""Of any camera: 8192 x 4320 are 35 million. A few frames of more would fill the memory."""

FRAME_SIDES_LIMIT = 20
"""Times that the longer side may hold the shorter one: else a frame scaled to a width gets any height."""

CameraKey = NewType("CameraKey", str)
"""The feature name of a camera, such as ``observation.images.front``."""

EpisodeIndex = NewType("EpisodeIndex", int)


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where the frames of one episode and camera lie: a part of an mp4 file that may hold many episodes."""

    path: Path
    """The mp4 file, absolute."""
    from_timestamp_seconds: float
    """PTS at which the episode's time zero lies in the file."""
    to_timestamp_seconds: float
    """PTS at which the episode ends in the file (exclusive)."""


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where the frames of one episode and camera lie: rows of a parquet file, a coded picture in each."""

    path: Path
    """The data file, absolute."""
    column: str
    """The camera's column, ``struct<bytes, path>``."""
    first_row: int
    """Row of the episode's first frame, counted from the start of the file."""
    row_count: int
    root: Path
    """The dataset's folder, absolute: a row that holds no bytes but a path is read from below it."""


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeRecord:
    """One episode: what was asked of the robot, when its frames were taken, where they are."""

    index: EpisodeIndex
    task: str
    """The episode's task; several are joined with ``"; "``; may be empty."""
    timestamps_seconds: NDArray[np.float32]
    """Shape (frames,), float32, strictly increasing: the parquet column ``timestamp``, exactly."""
    fps: float
    data_path: Path
    """The parquet file that holds the episode's rows, absolute."""
    dataset_from_index: int
    """The dataset-wide index of the episode's first frame."""
    videos: Mapping[CameraKey, VideoSpan]
    """The cameras stored as videos, in the order of ``info.json``."""
    images: Mapping[CameraKey, ImageSpan] = field(default_factory=dict)
    """The cameras stored as pictures in the rows, in the order of ``info.json``."""

    @property
    def frame_count(self) -> int:
        """Number of frames."""
        return len(self.timestamps_seconds)


@dataclass(frozen=True, slots=True)
class Features:
    """The features of ``info.json`` as far as the worker uses them."""

    fps: float
    cameras: tuple[CameraKey, ...]
    """RGB cameras, in the order of ``info.json``; depth streams are not cameras. The first is the default."""
    camera_sizes: Mapping[CameraKey, tuple[int, int]]
    """(width, height) in pixels."""
    image_cameras: frozenset[CameraKey] = frozenset()
    """Those of ``cameras`` that are stored as pictures in the rows; the others are videos."""


def quick_parts(
    episode: EpisodeRecord, cameras: Iterable[CameraKey], version_of: Callable[[Path], str]
) -> dict[str, str]:
    """What quick fingerprints of ``episode`` are made of: SHA-256 (hex) by camera, under ``""`` of its times.

    Args:
        episode: as it was read.
        cameras: any of it.
        version_of: what stands for the content of a file; raises DatasetError.

    Raises:
        DatasetError: see ``version_of``.
    """
    times = np.ascontiguousarray(episode.timestamps_seconds, dtype="<f4").tobytes()
    parts = {"": hashlib.sha256(struct.pack("<d", episode.fps) + times).hexdigest()}
    for camera in cameras:
        video, image = episode.videos.get(camera), episode.images.get(camera)
        if video is not None:
            where = [version_of(video.path), video.from_timestamp_seconds, video.to_timestamp_seconds]
        elif image is not None:
            where = [version_of(image.path), image.column, image.first_row, image.row_count]
        else:
            continue
        parts[camera] = hashlib.sha256(json.dumps(where).encode()).hexdigest()
    return parts


def quick_fingerprint(task: str, parts: Mapping[str, str], cameras_used: Iterable[CameraKey]) -> str:
    """SHA-256 (hex) over the task of an episode and what ``quick_parts`` gave of it."""
    used = ["", *sorted(set(cameras_used))]
    value = {"task": task, "parts": {name: parts.get(name) for name in used}}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
