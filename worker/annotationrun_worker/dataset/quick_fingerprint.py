"""What stands for the content of an episode without reading a frame of it.

It is to the fingerprint what rsync's quick check (size and time) is to its checksum: episodes with the same
quick fingerprint are the same, as long as nobody tampers with times; those with another one may be so too.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord


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
