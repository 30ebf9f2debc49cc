"""Does what is said of an episode agree?"""

from pathlib import Path

import numpy as np
import pytest

from annotationrun_worker.dataset.episodes import overlap_faults, span_fault, timestamps_fault
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, VideoSpan

FPS = 10.0
CAMERA = CameraKey("observation.images.top")


def span(start: float, end: float, name: str = "a.mp4") -> VideoSpan:
    return VideoSpan(Path(name), start, end)


@pytest.mark.parametrize(
    ("seconds", "row"),
    [
        pytest.param([0.0, 0.1, 0.2], None, id="on time"),
        pytest.param([0.04, 0.14, 0.24], None, id="late by less than half a frame"),
        pytest.param([0.0, 0.1, 0.26], 2, id="one late by more"),
        pytest.param([2.0, 2.1, 2.2], 0, id="no reset at the episode's start"),
        pytest.param([0.0, 0.1, 0.3], 2, id="a frame that was dropped"),
        pytest.param([0.0, 0.05, 0.1], 2, id="another frame rate"),
        pytest.param([0.5], 0, id="one frame"),
    ],
)
def test_frame_i_stands_at_i_frames_of_the_episode(seconds, row):
    fault = timestamps_fault(np.array(seconds, np.float32), FPS)
    if row is None:
        assert fault is None
        return
    assert fault is not None
    assert fault.startswith(f"row {row}: timestamp is {seconds[row]:.6f} s, but frame {row} ")
    assert f"stands at {row / FPS:.6f} s" in fault


def test_what_float32_seconds_of_a_long_episode_round_is_no_contradiction():
    frames = 30 * 3600 * 3
    assert timestamps_fault((np.arange(frames) / 30).astype(np.float32), 30.0) is None


@pytest.mark.parametrize("end", [5.96, 6.0, 6.04])
def test_a_span_may_differ_from_its_frames_by_half_a_frame(end):
    assert span_fault(20, FPS, span(4.0, end)) is None


@pytest.mark.parametrize("end", [5.9, 6.1])
def test_a_span_of_another_length_is_told_with_both_lengths(end):
    fault = span_fault(20, FPS, span(4.0, end))
    assert fault is not None
    assert f"is {end - 4:.6f} s long" in fault
    assert "its 20 frames take 2.000000 s" in fault


def test_episodes_that_claim_the_same_frames_are_both_named():
    spans = [
        (EpisodeIndex(0), CAMERA, span(0.0, 2.0)),
        (EpisodeIndex(1), CAMERA, span(1.9, 3.9)),
        (EpisodeIndex(2), CAMERA, span(3.95, 6.0)),
        (EpisodeIndex(3), CAMERA, span(1.0, 3.0, "b.mp4")),
        (EpisodeIndex(4), CameraKey("other"), span(1.0, 3.0)),
        (EpisodeIndex(5), CAMERA, span(3.95, 6.0)),
    ]
    faults = overlap_faults(spans, FPS)
    assert sorted(faults) == [(0, CAMERA), (1, CAMERA)]
    assert faults[EpisodeIndex(0), CAMERA] == faults[EpisodeIndex(1), CAMERA]
    assert "from 0.000000 to 2.000000 s" in faults[EpisodeIndex(0), CAMERA]
    assert "episode 1 from 1.900000 to 3.900000 s" in faults[EpisodeIndex(0), CAMERA]
