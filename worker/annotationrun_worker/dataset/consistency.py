"""Does what is said of an episode agree? Its timestamps, its length, and its span of each video. Pure.

LeRobot finds a frame at ``from_timestamp`` of its camera plus ``timestamp`` of its row (lerobot 0.6.1,
``DatasetReader``). Where the two contradict each other by more than half a frame, that is a frame of another
time, or of another episode.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, VideoSpan

SLACK_SECONDS = 1e-4
"""Lets float32 seconds of a long episode, and what exporters round, pass."""


def half_frame_seconds(fps: float) -> float:
    """The largest contradiction that still means one frame, in seconds."""
    return 0.5 / fps + SLACK_SECONDS


def timestamps_fault(timestamps_seconds: NDArray[np.float32], fps: float) -> str | None:
    """What contradicts the frame rate in an episode's timestamps; ``None``: nothing.

    Frame ``i`` has to stand at ``i / fps`` of the episode's own time, give or take half a frame.

    Args:
        timestamps_seconds: shape (frames,), float32.
        fps: frames a second.
    """
    expected = np.arange(len(timestamps_seconds)) / fps
    off = np.abs(timestamps_seconds.astype(np.float64) - expected)
    wrong = np.flatnonzero(off > half_frame_seconds(fps))
    if not len(wrong):
        return None
    row = int(wrong[0])
    return (
        f"row {row}: timestamp is {timestamps_seconds[row]:.6f} s, but frame {row} of an episode stands at "
        f"{expected[row]:.6f} s ({fps:g} frames a second); timestamps count from the start of each episode"
    )


def span_fault(length: int, fps: float, span: VideoSpan) -> str | None:
    """What contradicts an episode's number of frames in its span of a video; ``None``: nothing."""
    told = span.to_timestamp_seconds - span.from_timestamp_seconds
    if abs(told - length / fps) <= half_frame_seconds(fps):
        return None
    return (
        f"its span of {str(span.path)!r} is {told:.6f} s long (from_timestamp "
        f"{span.from_timestamp_seconds:.6f}, to_timestamp {span.to_timestamp_seconds:.6f}), but its {length} "
        f"frames take {length / fps:.6f} s at {fps:g} frames a second"
    )


def overlap_faults(
    spans: Iterable[tuple[EpisodeIndex, CameraKey, VideoSpan]], fps: float
) -> Mapping[tuple[EpisodeIndex, CameraKey], str]:
    """Episodes that claim the same part of a video: which of the two is wrong, nobody can tell.

    Spans that are equal are no contradiction: an episode may be listed twice on purpose.
    """
    by_file: dict[tuple[CameraKey, Path], list[tuple[float, float, EpisodeIndex]]] = {}
    for index, camera, span in spans:
        places = by_file.setdefault((camera, span.path), [])
        places.append((span.from_timestamp_seconds, span.to_timestamp_seconds, index))
    faults: dict[tuple[EpisodeIndex, CameraKey], str] = {}
    for (camera, path), places in by_file.items():
        for first, second in pairwise(sorted(places)):
            if first[:2] == second[:2] or first[1] - second[0] <= half_frame_seconds(fps):
                continue
            text = (
                f"episode {first[2]} lies from {first[0]:.6f} to {first[1]:.6f} s of {str(path)!r}, and "
                f"episode {second[2]} from {second[0]:.6f} to {second[1]:.6f} s: they overlap by more than "
                "half a frame"
            )
            faults.setdefault((first[2], camera), text)
            faults.setdefault((second[2], camera), text)
    return faults
