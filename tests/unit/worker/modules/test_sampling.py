from itertools import pairwise

import numpy as np
import pytest

from annotationrun_worker.modules.prompt_media import plan_samples, split_windows, vqa_frames


def at_fps(frames: int, fps: float, first: float = 0.0) -> np.ndarray:
    return (first + np.arange(frames) / fps).astype(np.float32)


@pytest.mark.parametrize(
    ("frames", "fps", "rate", "expected"),
    [
        pytest.param(
            120, 30, 2.0, [0, 15, 30, 45, 60, 75, 90, 105, 119], id="4 s at 2 Hz, and the last frame"
        ),
        pytest.param(31, 30, 2.0, [0, 15, 30], id="the last frame is a sample already"),
        pytest.param(1, 30, 2.0, [0], id="one frame"),
        pytest.param(5, 1, 10.0, [0, 1, 2, 3, 4], id="more samples than frames are distinct"),
    ],
)
def test_plan_samples(frames, fps, rate, expected):
    assert plan_samples(at_fps(frames, fps), rate) == expected


def test_plan_samples_count_from_the_first_timestamp():
    assert plan_samples(at_fps(61, 30, first=4.0), 1.0) == [0, 30, 60]


def test_samples_of_a_30_second_episode_do_not_drift():
    samples = plan_samples(at_fps(903, 30), 2.0)
    assert samples == [*range(0, 901, 15), 902]


@pytest.mark.parametrize(
    ("frames", "hz", "per_tick", "expected"),
    [
        pytest.param(60, 1.0, 1, [0, 30], id="one frame a second"),
        pytest.param(61, 1.0, 1, [0, 30, 60], id="a tick on the last frame"),
        pytest.param(62, 1.0, 3, [0, 1, 2, 30, 31, 32, 60, 61], id="next frames stop at the end"),
        pytest.param(6, 15.0, 3, [0, 1, 2, 3, 4, 5], id="frames of two ticks come once"),
    ],
)
def test_vqa_frames(frames, hz, per_tick, expected):
    assert vqa_frames(at_fps(frames, 30), hz, per_tick) == expected


def test_one_sample_more_than_a_prompt_holds_makes_two_even_windows():
    timestamps = at_fps(903, 30)
    samples = plan_samples(timestamps, 2.0)
    assert len(samples) == 62
    windows = split_windows(samples, timestamps, 60)
    assert [len(window.frames) for window in windows] == [31, 31]


def test_windows_are_contiguous_and_differ_by_one_sample_at_most():
    timestamps = at_fps(1050, 30)
    samples = plan_samples(timestamps, 2.0)
    windows = split_windows(samples, timestamps, 16)
    assert [frame for window in windows for frame in window.frames] == samples
    assert {len(window.frames) for window in windows} <= {14, 15}
    for window, following in pairwise(windows):
        assert window.end_seconds == following.zero_seconds == float(timestamps[following.frames[0]])
    assert windows[0].zero_seconds == 0.0
    assert windows[-1].end_seconds == float(timestamps[-1])
