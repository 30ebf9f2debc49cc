"""The decode plan: what is decoded for the frames wanted, and how it is cut."""

import itertools

import numpy as np
import pytest

from annotationrun_worker.video.decode_plan import (
    FileIndex,
    Stretch,
    cut,
    merge_targets,
    plan_groups,
    shares_work,
)


def index_of(group_frames, fps=30.0):
    """A file whose groups have so many frames each."""
    numbers = np.concatenate([[0], np.cumsum(group_frames)[:-1]]).astype(np.int64)
    count = int(sum(group_frames))
    return FileIndex(640, 480, numbers / fps, numbers, count, count / fps)


def times(frames, fps=30.0):
    return np.asarray(frames, dtype=np.float64) / fps


@pytest.mark.parametrize(
    ("group_frames", "wanted", "expected"),
    [
        pytest.param([2] * 30, [0, 30], [(0, 1, 0, 1), (1, 2, 15, 1)], id="keyframes alone: one frame each"),
        pytest.param([2] * 30, [15], [(0, 1, 7, 2)], id="the frame behind a keyframe: both"),
        pytest.param([2] * 30, [8, 9, 10], [(0, 2, 4, 2), (2, 3, 5, 1)], id="neighbours in two groups"),
        pytest.param([250, 50], [0, 30, 249], [(0, 3, 0, 250)], id="one long group: once, up to the last"),
        pytest.param(
            [250, 50], [30, 299], [(0, 1, 0, 31), (1, 2, 1, 50)], id="nothing behind the last wanted"
        ),
        pytest.param([300], [7], [(0, 1, 0, 8)], id="a single keyframe"),
        pytest.param([10, 10], [400], [(0, 1, 1, 10)], id="behind the end: the last group"),
    ],
)
def test_each_group_is_decoded_once_up_to_its_last_wanted_frame(group_frames, wanted, expected):
    groups = plan_groups(index_of(group_frames), times(wanted))
    assert [(g.start, g.stop, g.first_group, g.frames) for g in groups] == expected
    assert all(group.first_group == group.last_group for group in groups)


def test_a_time_before_the_first_keyframe_belongs_to_it():
    index = FileIndex(8, 8, np.array([1.0, 2.0]), np.array([0, 30]), 60, 3.0)
    assert [group.first_group for group in plan_groups(index, np.array([0.2]))] == [0]


def test_a_time_rounded_down_as_float32_means_the_keyframe():
    index = index_of([30] * 4000)
    target = float(np.float32(3599.0333)) + 1 / 30 * 29
    key = round(target * 30)
    (group,) = plan_groups(index, np.array([key / 30 - 1e-4]))
    assert (group.first_group, group.frames) == (key // 30, key % 30 + 1)


@pytest.mark.parametrize("seed", range(40))
def test_drawn_files_and_wishes_cover_each_frame_once_at_the_least_cost(seed):
    draw = np.random.default_rng(seed)
    group_frames = draw.integers(1, draw.integers(2, 300), draw.integers(1, 60))
    index = index_of(group_frames)
    wanted = np.unique(draw.integers(0, index.frame_count, draw.integers(1, 400)))
    groups = plan_groups(index, times(wanted))
    children = int(draw.integers(1, 5))
    pieces = cut(groups, children)
    # The fewest frames: in each group in which something is wanted, all from the keyframe to the last wanted.
    starts = np.append(index.key_numbers, index.frame_count)
    least = sum(
        int(of_group.max() - first) + 1
        for first, stop in itertools.pairwise(starts)
        if len(of_group := wanted[(wanted >= first) & (wanted < stop)])
    )
    assert sum(group.frames for group in groups) == least
    assert sum(piece.frames for piece in pieces) == least
    covered = [number for piece in pieces for number in range(piece.start, piece.stop)]
    assert covered == list(range(len(wanted)))
    assert all(a.last_group < b.first_group for a, b in itertools.pairwise(pieces))
    # In order, always to the child that is free first: they end within a group and a piece of each other.
    ends = [0] * children
    for piece in pieces:
        ends[ends.index(min(ends))] += piece.frames
    largest = max(piece.frames for piece in pieces)
    assert max(ends) <= least / children + largest
    if len(pieces) > 1:
        assert largest <= least / len(pieces) + 2 * max(group.frames for group in groups)


@pytest.mark.parametrize(
    ("groups", "children", "pieces"),
    [
        pytest.param(1, 4, 1, id="one group can't be cut"),
        pytest.param(2, 4, 1, id="two frames are not worth the way"),
        pytest.param(4, 2, 2, id="four neighbouring keyframes: two pieces"),
        pytest.param(60, 1, 4, id="one child"),
        pytest.param(60, 2, 8, id="two children"),
    ],
)
def test_there_are_some_pieces_for_each_child_and_none_too_small(groups, children, pieces):
    plan = plan_groups(index_of([2] * groups), times(range(0, 2 * groups, 2)))
    assert len(cut(plan, children)) == pieces


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param((3, 5), (5, 9), True, id="a group in common"),
        pytest.param((3, 5), (6, 9), False, id="neighbours"),
        pytest.param((3, 9), (5, 6), True, id="one within the other"),
    ],
)
def test_stretches_share_work_where_they_have_a_group_in_common(one, other, expected):
    first, second = (Stretch(0, 1, *groups, frames=1) for groups in (one, other))
    assert shares_work(first, second) is expected
    assert shares_work(second, first) is expected


def test_the_wishes_of_several_callers_rise_together():
    merged = merge_targets([np.array([0.0, 2.0, 4.0]), np.array([1.0, 2.0])])
    assert merged == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
