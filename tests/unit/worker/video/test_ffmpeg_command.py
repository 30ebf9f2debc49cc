"""The ffmpeg program's arguments and log, as text."""

from pathlib import Path

import numpy as np
import pytest

from annotationrun_worker.video.decode_plan import steps_back
from annotationrun_worker.video.ffmpeg_command import (
    ShownFrame,
    build_decode_command,
    log_tail,
    parse_shown_frames,
)
from annotationrun_worker.video.ffmpeg_decoder import split_stretches

LOG = """\
[Parsed_showinfo_4 @ 0x55b] [info] config in time_base: 1/15360, frame_rate: 30/1
[Parsed_showinfo_4 @ 0x55b] [info] config out time_base: 0/0, frame_rate: 0/0
[Parsed_showinfo_4 @ 0x55b] [info] n:   0 pts: 154624 pts_time:10.0667 pos:   237851 fmt:rgb24 sar:1/1 \
s:320x240 i:P iskey:1 type:I
[Parsed_showinfo_4 @ 0x55b] [info] color_range:pc color_space:gbr color_primaries:unknown color_trc:unknown
[Parsed_showinfo_4 @ 0x55b] [info] n:   1 pts:     -7 pts_time:-0.00045 fmt:rgb24 sar:1/1 s:64x48 i:P
[NULL @ 0x55d] [error] Invalid OBU length: 1646
[fatal] corrupt input packet in stream 0
[info] Conversion failed!
"""


def command(targets, seek):
    return build_decode_command("ffmpeg", Path("/d/-x y.mp4"), targets, [0.01] * len(targets), seek)


def test_times_keep_their_precision():
    """Three decimals would be the next frame: 10.067 for 10.0666..."""
    arguments = command([10.066666603088379], 10.076666603088379)
    assert arguments[arguments.index("-ss") + 1] == "10076666us"
    filters = arguments[arguments.index("-vf") + 1]
    assert "between(t,10.056666603,10.076666603)" in filters
    assert "trim=end=10076668us" in filters


def test_the_file_is_one_argument_that_can_be_no_option_and_no_address():
    arguments = command([1.0], 1.01)
    assert arguments[arguments.index("-i") + 1] == "file:/d/-x y.mp4"
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    assert arguments.index("-noautorotate") < arguments.index("-i")


def test_nothing_is_sought_from_the_start():
    assert "-ss" not in command([0.0], 0.0)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1000])
def test_windows_are_added_up_as_a_shallow_tree(count):
    filters = command([i / 30 for i in range(count)], 0.0)
    expression = next(part for part in filters if part.startswith("trim"))
    assert expression.count("between(") == count
    depth = deepest = 0
    for letter in expression:
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    assert depth == 0
    assert deepest <= 12


def test_the_log_tells_each_frames_pts_in_ticks():
    assert parse_shown_frames(LOG) == [
        ShownFrame(154624 / 15360, 320, 240),
        ShownFrame(-7 / 15360, 64, 48),
    ]
    assert parse_shown_frames("") == []


def test_the_tail_is_what_ffmpeg_complained_of():
    assert log_tail(LOG) == (
        "[NULL @ 0x55d] [error] Invalid OBU length: 1646 | [fatal] corrupt input packet in stream 0"
    )
    assert log_tail("a\n\nb\nc\nd\n") == "b | c | d"


def test_targets_far_apart_and_long_stretches_get_processes_of_their_own():
    targets = np.array([0.0, 0.5, 2.4, 5.0, 6.9, 8.8, 10.7, 12.6, 14.5, 16.4])
    tolerances = np.full(10, 0.01)
    parts = [stretch.targets_seconds.tolist() for stretch in split_stretches(targets, tolerances)]
    assert parts == [[0.0, 0.5, 2.4], [5.0, 6.9, 8.8, 10.7, 12.6, 14.5], [16.4]]


def test_steps_back_double_and_end_at_the_start():
    assert list(steps_back(10.0)) == [10.0, 9.0, 7.0, 3.0, 0.0]
    assert list(steps_back(0.0)) == [0.0]
