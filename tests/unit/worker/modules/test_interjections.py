"""Where interjections may be, and which frames are shown for them."""

import numpy as np
import pytest

from annotationrun_worker.modules.base import SubtaskStart
from annotationrun_worker.modules.interjections import Boundary, find_boundaries, window_frames
from annotationrun_worker.modules.segments import relabel_frames

TEN_SECONDS = (np.arange(101) / 10).astype(np.float32)
SUBTASKS = [
    SubtaskStart(0, "pick"),
    SubtaskStart(15, "place"),
    SubtaskStart(40, "open"),
    SubtaskStart(99, "go"),
]


@pytest.mark.parametrize(
    ("min_time", "frames"),
    [
        pytest.param(0.0, [15, 40, 99], id="every start but the first"),
        pytest.param(1.5, [15, 40, 99], id="a start just at the minimum"),
        pytest.param(2.0, [40, 99], id="a start before the minimum"),
        pytest.param(60.0, [], id="an episode shorter than the minimum"),
    ],
)
def test_boundaries_are_the_starts_of_later_subtasks_from_the_minimum_on(min_time, frames):
    assert [found.frame for found in find_boundaries(SUBTASKS, TEN_SECONDS, min_time)] == frames


def test_the_minimum_counts_from_the_first_frame():
    found = find_boundaries(SUBTASKS, TEN_SECONDS + np.float32(100), 2.0)
    assert [boundary.frame for boundary in found] == [40, 99]


def test_a_boundary_names_what_is_done_and_what_comes():
    assert find_boundaries(SUBTASKS[:2], TEN_SECONDS, 0.0) == [Boundary(15, "pick", "place")]


@pytest.mark.parametrize("subtasks", [[], SUBTASKS[:1]], ids=["no subtask", "one subtask"])
def test_without_a_second_subtask_there_is_no_boundary(subtasks):
    assert find_boundaries(subtasks, TEN_SECONDS, 0.0) == []


@pytest.mark.parametrize(
    ("frame", "seconds", "count", "frames"),
    [
        pytest.param(40, 2.0, 5, [30, 35, 40, 45, 50], id="to both sides"),
        pytest.param(40, 2.0, 4, [30, 37, 43, 50], id="an even number, each at its nearest frame"),
        pytest.param(40, 2.0, 1, [40], id="one frame: the boundary's own"),
        pytest.param(99, 2.0, 5, [89, 94, 99, 100], id="cut at the end of the episode"),
        pytest.param(40, 0.08, 4, [40], id="shorter than a frame: no frame twice"),
    ],
)
def test_the_window_lies_around_the_boundary(frame, seconds, count, frames):
    assert window_frames(TEN_SECONDS, frame, seconds, count) == frames


@pytest.mark.parametrize(
    ("place", "each", "frames"),
    [
        pytest.param(0, 3, [0, 7, 14, 15, 27, 39], id="the first has none before it"),
        pytest.param(1, 2, [0, 14, 15, 39, 40, 98], id="with both neighbours"),
        pytest.param(3, 5, [40, 54, 69, 84, 98, 99, 100], id="the last, shorter than asked for"),
        pytest.param(2, 1, [15, 40, 99], id="one frame each: the first"),
    ],
)
def test_a_relabelled_subtask_is_shown_with_its_neighbours(place, each, frames):
    starts = [subtask.frame for subtask in SUBTASKS]
    assert relabel_frames(starts, len(TEN_SECONDS), place, each) == frames
