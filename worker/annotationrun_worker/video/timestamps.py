"""Which frame a time means: pure functions over an episode's float32 timestamps."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import VideoSpan
from annotationrun_worker.errors import TimestampOutOfRangeError

HALF_GAP_SLACK_SECONDS = 1e-6
"""Lets a request that lies exactly half way between two frames pass in spite of rounding."""

TOLERANCE_OF_GAP = 0.45
"""A decoded frame must be nearer than this part of the local gap: below one half no neighbour can pass."""


def local_gaps(timestamps_seconds: NDArray[np.float32], fps: float) -> NDArray[np.float64]:
    """The smaller distance to a neighbour, in seconds, for each frame: shape (frames,), float64.

    An episode of one frame has no neighbours: its gap is ``1 / fps``.
    """
    if len(timestamps_seconds) == 1:
        return np.array([1.0 / fps])
    steps = np.diff(timestamps_seconds.astype(np.float64))
    gaps: NDArray[np.float64] = np.minimum(np.append(steps[:1], steps), np.append(steps, steps[-1:]))
    return gaps


def nearest(timestamps_seconds: NDArray[np.float32], requests_seconds: Sequence[float]) -> NDArray[np.int64]:
    """Index of the nearest frame for each time, however far away; the earlier of two at the same distance.

    Shape (requests,), int64, in the order asked for. The requests must be finite.
    """
    times = timestamps_seconds.astype(np.float64)
    asked = np.asarray(requests_seconds, dtype=np.float64)
    after = np.clip(np.searchsorted(times, asked), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(asked), dtype=np.int64)
    before = after - 1
    chosen = np.where(asked - times[before] <= times[after] - asked, before, after)
    return chosen.astype(np.int64)


def snap(
    timestamps_seconds: NDArray[np.float32], requests_seconds: Sequence[float], fps: float
) -> NDArray[np.int64]:
    """Index of the frame that each time means: the nearest, if it lies within half the local gap.

    Times count from the episode's zero. Shape (requests,), int64, in the order asked for.

    Raises:
        TimestampOutOfRangeError: a time is not finite, or no frame lies near it (before the first, after the
            last, in a hole of the recording).
    """
    asked = np.asarray(requests_seconds, dtype=np.float64)
    endless = np.flatnonzero(~np.isfinite(asked))
    if len(endless):
        raise TimestampOutOfRangeError(f"a frame was asked for at {asked[endless[0]]} s, which is no time")
    chosen = nearest(timestamps_seconds, requests_seconds)
    distances = np.abs(timestamps_seconds.astype(np.float64)[chosen] - asked)
    limits = local_gaps(timestamps_seconds, fps)[chosen] / 2 + HALF_GAP_SLACK_SECONDS
    far = np.flatnonzero(distances > limits)
    if len(far):
        first = int(far[0])
        raise TimestampOutOfRangeError(
            f"no frame at {asked[first]:.6f} s: the nearest of the frames from {timestamps_seconds[0]:.6f} "
            f"to {timestamps_seconds[-1]:.6f} s is {distances[first]:.6f} s away, "
            f"at most {limits[first]:.6f} s (half the distance between frames) is taken"
        )
    return chosen


def tolerances_seconds(
    local_gaps_seconds: NDArray[np.float64], tolerance_seconds: float
) -> NDArray[np.float64]:
    """How far the PTS of a decoded frame may be off, in seconds, by frame."""
    return np.minimum(tolerance_seconds, TOLERANCE_OF_GAP * local_gaps_seconds)


def target_pts_seconds(
    timestamps_seconds: NDArray[np.float32], from_timestamp_seconds: float
) -> NDArray[np.float64]:
    """Where the frames lie in the video file, in seconds of PTS: the sum is made in float64."""
    return from_timestamp_seconds + timestamps_seconds.astype(np.float64)


def within_span(
    targets_seconds: NDArray[np.float64],
    tolerances_seconds: NDArray[np.float64],
    span: VideoSpan,
    fps: float,
) -> NDArray[np.float64]:
    """The tolerances, none of which leads out of the span: to a frame of another episode.

    The frames of a span have their PTS from half a frame before its start to half a frame before its end.
    Negative where the target itself lies outside of that.
    """
    half_frame = 0.5 / fps
    after = targets_seconds - (span.from_timestamp_seconds - half_frame)
    before = (span.to_timestamp_seconds - half_frame) - targets_seconds
    return np.minimum(tolerances_seconds, np.minimum(after, before))


def uniform_indices(frame_count: int, max_frames: int) -> NDArray[np.int64]:
    """At most ``max_frames`` distinct frames spread evenly over the episode, both ends included.

    All of them if there are no more than ``max_frames``; the first one for ``max_frames`` 1.

    Raises:
        ValueError: ``max_frames`` is below 1.
    """
    if max_frames < 1:
        raise ValueError(f"max_frames is {max_frames}, expected at least 1")
    if max_frames >= frame_count:
        return np.arange(frame_count, dtype=np.int64)
    return np.rint(np.linspace(0, frame_count - 1, max_frames)).astype(np.int64)
