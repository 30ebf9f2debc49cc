"""The fingerprint of an episode: what the modules see of it, and nothing of where it lies."""

import hashlib
import struct
from collections.abc import Callable, Iterable

import numpy as np

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord

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
