"""The demo's script and truth keep their promises before anything is encoded."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.scene import (
    CAMERAS,
    FPS,
    HEIGHT,
    SCENE_HEIGHT,
    WIDTH,
    boxes_truth,
    draw_frame,
    make_episodes,
    subtask_truth,
)

SEEDS = (7, 0, 99)


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed {seed}")
def script(request):
    return make_episodes(5, request.param)


def test_every_phase_lasts_two_seconds_and_the_phases_cover_the_episode(script):
    for episode in script:
        spans = subtask_truth(episode)
        assert spans[0][1] == 0
        assert spans[-1][2] == (episode.frame_count - 1) / FPS
        assert all(one[2] == other[1] for one, other in pairwise(spans))
        assert min(end - start for _, start, end in spans) >= 2
        assert 12 <= episode.frame_count / FPS <= 25


def test_each_pick_is_followed_by_the_place_of_the_same_block(script):
    for episode in script:
        texts = [text for text, _, _ in subtask_truth(episode)]
        for pick, place in zip(texts[::2], texts[1::2], strict=True):
            assert place.startswith(pick.replace("pick up", "place") + " on the ")


@pytest.mark.parametrize("camera", CAMERAS)
def test_blocks_are_large_apart_inside_the_scene_and_clear_of_the_badge(script, camera):
    badge_width, badge_height = 54 / 224 * WIDTH, 19 / 224 * WIDTH
    for episode in script:
        for frame in range(episode.frame_count):
            boxes = boxes_truth(episode, frame, camera)
            blocks = [box for label, box in boxes.items() if label.endswith("block")]
            for x1, y1, x2, y2 in boxes.values():
                assert x1 >= 0
                assert x2 <= WIDTH
                assert y2 <= SCENE_HEIGHT
                assert y1 >= badge_height or x1 >= badge_width
            assert len(blocks) == len(episode.blocks) > 0
            assert all(x2 - x1 >= 40 and y2 - y1 >= 40 for x1, y1, x2, y2 in blocks)
            # nothing solid lies over a block; the gripper's outline may hold one between its fingers
            solid = [box for label, box in boxes.items() if label != "gripper"]
            for one, other in combinations(solid, 2):
                across = min(one[2], other[2]) - max(one[0], other[0])
                down = min(one[3], other[3]) - max(one[1], other[1])
                assert across <= 0 or down <= 1e-9, (episode.index, frame, one, other)


def test_open_fingers_never_reach_over_a_block_they_do_not_hold(script):
    finger_width = 12
    for episode in script:
        for frame in range(episode.frame_count):
            boxes = boxes_truth(episode, frame, CAMERAS[0])
            x1, y1, x2, y2 = boxes.pop("gripper")
            for finger in ((x1, y1, x1 + finger_width, y2), (x2 - finger_width, y1, x2, y2)):
                for box in boxes.values():
                    across = min(finger[2], box[2]) - max(finger[0], box[0])
                    down = min(finger[3], box[3]) - max(finger[1], box[1])
                    assert across <= 1e-9 or down <= 1e-9, (episode.index, frame, finger, box)


@pytest.mark.parametrize(("number", "camera"), list(enumerate(CAMERAS)))
def test_every_frame_carries_its_code(number, camera):
    episode = make_episodes(3, 7)[2]
    picture = draw_frame(episode, 31, camera)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert picture.dtype == np.uint8
    assert frame_code.read(picture) == {"index": episode.from_index + 31, "camera": number, "episode": 2}


def test_the_same_seed_gives_the_same_script_and_another_seed_another():
    assert make_episodes(4, 7) == make_episodes(4, 7)
    assert make_episodes(4, 7) != make_episodes(4, 8)


def test_most_episodes_share_a_task_and_one_has_its_own():
    tasks = [episode.task for episode in make_episodes(4, 7)]
    assert len(set(tasks)) == 2
    assert tasks.count("Put the blocks on the pads") == 3
