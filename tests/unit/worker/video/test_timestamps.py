"""Which frame a time means."""

from pathlib import Path

import numpy as np
import pytest

from annotationrun_worker.dataset.types import VideoSpan
from annotationrun_worker.errors import TimestampOutOfRangeError
from annotationrun_worker.video.timestamps import (
    local_gaps,
    nearest,
    snap,
    target_pts_seconds,
    tolerances_seconds,
    uniform_indices,
    within_span,
)

AT_30 = (np.arange(5) / 30).astype(np.float32)
UNEVEN = np.array([0.0, 0.1, 0.2, 1.0, 1.05], dtype=np.float32)
LATE_START = np.array([2.5, 2.6, 2.7], dtype=np.float32)
SINGLE = np.array([0.5], dtype=np.float32)


@pytest.mark.parametrize(
    ("timestamps", "asked", "expected"),
    [
        pytest.param(AT_30, [0.0, 1 / 30, 4 / 30], [0, 1, 4], id="the times of the frames themselves"),
        pytest.param(AT_30, [0.4 / 30, 1.6 / 30], [0, 2], id="0.4 of a gap to either side is the same frame"),
        pytest.param(AT_30, [3 / 30, 0.0, 3 / 30], [3, 0, 3], id="any order, with repetitions"),
        pytest.param(AT_30, [-0.49 / 30, 4.49 / 30], [0, 4], id="just outside of the episode"),
        pytest.param(UNEVEN, [0.24, 0.96 + 0.02], [2, 3], id="uneven frames, close enough to one"),
        pytest.param(LATE_START, [2.5, 2.74], [0, 2], id="an episode that doesn't start at zero"),
        pytest.param(SINGLE, [0.5, 0.5 + 0.49 / 30], [0, 0], id="one frame: the gap is 1/fps"),
        pytest.param(AT_30, [], [], id="nothing asked"),
        pytest.param(
            np.array([0, 0.5, 1], np.float32), [0.25, 0.75], [0, 1], id="half way: the earlier of the two"
        ),
    ],
)
def test_a_time_means_the_nearest_frame(timestamps, asked, expected):
    assert snap(timestamps, asked, fps=30.0).tolist() == expected


@pytest.mark.parametrize(
    ("timestamps", "asked"),
    [
        pytest.param(AT_30, -0.51 / 30, id="before the first frame"),
        pytest.param(AT_30, 4.51 / 30, id="past the end by half a frame"),
        pytest.param(AT_30, 1e9, id="far past the end"),
        pytest.param(UNEVEN, 0.6, id="in a hole of the recording"),
        pytest.param(UNEVEN, 0.96, id="before a hole's end, further than half of its smaller gap"),
        pytest.param(LATE_START, 0.0, id="zero, in an episode that starts later"),
        pytest.param(SINGLE, 0.5 + 0.51 / 30, id="one frame, half a gap away"),
        pytest.param(AT_30, float("nan"), id="not a number"),
        pytest.param(AT_30, float("inf"), id="without end"),
    ],
)
def test_a_time_far_from_every_frame_is_an_error(timestamps, asked):
    with pytest.raises(TimestampOutOfRangeError):
        snap(timestamps, [float(timestamps[0]), asked], fps=30.0)


def test_the_error_says_what_was_asked_and_what_there_is():
    with pytest.raises(
        TimestampOutOfRangeError, match=r"no frame at 0\.200000 s.* to 0\.133333 s is 0\.06666"
    ):
        snap(AT_30, [0.2], fps=30.0)


def test_nearest_takes_any_distance():
    assert nearest(UNEVEN, [-5.0, 0.61, 99.0]).tolist() == [0, 3, 4]


def test_the_local_gap_is_the_smaller_of_both_neighbours():
    assert local_gaps(UNEVEN, 30.0) == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05], abs=1e-6)
    assert local_gaps(SINGLE, 25.0).tolist() == [0.04]


def test_a_decoded_frame_may_be_off_by_the_setting_or_less_than_half_a_gap():
    assert tolerances_seconds(np.array([0.1, 0.01]), 0.01).tolist() == [0.01, 0.45 * 0.01]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param(4.0, 0.04, id="the first frame"),
        pytest.param(5.9, 0.04, id="the last frame"),
        pytest.param(5.93, 0.02, id="a late last frame: short of the next episode's first"),
        pytest.param(3.96, 0.01, id="an early first frame: short of the last one's last"),
        pytest.param(6.0, -0.05, id="the next episode's first frame"),
        pytest.param(3.9, -0.05, id="the last episode's last frame"),
    ],
)
def test_no_tolerance_leads_out_of_the_span(target, expected):
    span = VideoSpan(Path("v.mp4"), 4.0, 6.0)
    reach = within_span(np.array([target]), np.array([0.04]), span, 10.0)
    assert reach.tolist() == pytest.approx([expected])


def test_targets_are_float32_timestamps_added_in_float64():
    timestamp = np.float32(10.0666667)
    target = target_pts_seconds(np.array([timestamp]), 1000.1)
    assert target.dtype == np.float64
    assert target[0] == 1000.1 + float(timestamp)


@pytest.mark.parametrize(
    ("frames", "most", "expected"),
    [
        pytest.param(5, 5, [0, 1, 2, 3, 4], id="as many as there are: all"),
        pytest.param(3, 100, [0, 1, 2], id="more than there are: all"),
        pytest.param(9, 3, [0, 4, 8], id="fewer: both ends, even between"),
        pytest.param(100, 1, [0], id="one: the first"),
        pytest.param(4, 3, [0, 2, 3], id="nearly all: still distinct"),
    ],
)
def test_frames_spread_evenly(frames, most, expected):
    assert uniform_indices(frames, most).tolist() == expected


def test_no_frames_at_all_can_not_be_asked_for():
    with pytest.raises(ValueError, match="max_frames is 0"):
        uniform_indices(10, 0)
