"""From what is seen in each frame to subtasks."""

import pytest

from annotationrun_worker.demo.vision import Segment, Sight, Thing, TimedSight, find_segments

RED = Thing("red", "block", (10, 60, 58, 108))
GRIPPER_WIDTH = {"wide": 116, "ajar": 92, "closed": 68}


def robot(fingers: str, *blocks: Thing, x: float = 34) -> Sight:
    reach = GRIPPER_WIDTH[fingers] / 2
    gripper = Thing("cyan", "gripper", (x - reach, 44, x + reach, 96))
    pad = Thing("blue", "pad", (300, 110, 380, 126))
    return Sight(480, 360, (*blocks, gripper, pad), 120)


def square(x: float) -> Sight:
    return Sight(320, 240, (Thing("yellow", "block", (x, 20, x + 40, 60)),), 120)


NOTHING = Sight(320, 240, (), 120)


def timed(sights: list[Sight], step: float = 0.5) -> list[TimedSight]:
    return [TimedSight(place * step, sight) for place, sight in enumerate(sights)]


def test_open_fingers_are_a_pick_and_what_follows_is_the_place_until_they_open_wide_again():
    placed = Thing("red", "block", (316, 62, 364, 110))
    sights = [robot("wide", RED)] * 4 + [robot("closed", RED)] * 4 + [robot("ajar", placed, x=340)] * 3
    assert find_segments(timed(sights)) == [
        Segment("pick up the red block", 0.0, 2.0),
        Segment("place the red block on the blue pad", 2.0, 5.0),
    ]


def test_a_pick_is_named_after_the_block_that_is_held_next_not_after_the_nearest_one():
    green = Thing("green", "block", (200, 60, 248, 108))
    approach = [robot("wide", RED, green, x=x) for x in (40, 60, 80, 100)]
    held = [robot("closed", RED, green, x=224)] * 4
    assert find_segments(timed(approach + held))[0].text == "pick up the green block"


def test_a_frame_in_which_the_gripper_is_not_seen_goes_on_as_the_one_before_it():
    sights = [robot("wide", RED)] * 2 + [NOTHING] * 2 + [robot("wide", RED)] * 2
    assert find_segments(timed(sights)) == [Segment("pick up the red block", 0.0, 2.5)]


def test_a_square_is_followed_by_its_direction():
    sights = [square(x) for x in (0, 20, 40, 60, 80, 60, 40, 20, 0)]
    assert find_segments(timed(sights)) == [
        Segment("move the yellow square to the right", 0.0, 2.0),
        Segment("move the yellow square to the left", 2.0, 4.0),
    ]


@pytest.mark.parametrize("turn_every", [1, 2, 3, 5], ids=lambda n: f"a turn every {n} frames")
def test_there_are_never_more_than_eight_segments_nor_any_under_a_second_and_a_half(turn_every):
    x, sights = 100, []
    for place in range(60):
        sights.append(square(x))
        x += 10 if (place // turn_every) % 2 else -10
    segments = find_segments(timed(sights))
    assert 1 <= len(segments) <= 8
    assert segments[0].start_seconds == 0
    assert segments[-1].end_seconds == 29.5
    assert len(segments) == 1 or min(s.end_seconds - s.start_seconds for s in segments) >= 1.5


def test_nothing_recognised_gives_no_segments():
    assert find_segments(timed([NOTHING] * 5)) == []
    assert find_segments([]) == []


def test_one_frame_is_one_segment_without_length():
    assert find_segments(timed([robot("wide", RED)])) == [Segment("pick up the red block", 0.0, 0.0)]
