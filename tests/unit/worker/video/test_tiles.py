"""Which size tiles have, and of which cameras they are made of whole frames."""

import numpy as np
import pytest

from annotationrun_api.spec_modules import ModulesSpec
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.modules.prompt_media import cameras_shown_whole
from annotationrun_worker.video.tiles import TileSize, tile_of, tiles_of

FRONT, WRIST = CameraKey("front"), CameraKey("wrist")


@pytest.mark.parametrize(
    ("frame", "width", "height"),
    [
        pytest.param((640, 480), 224, 168, id="smaller"),
        pytest.param((320, 240), 480, 360, id="larger"),
        pytest.param((640, 480), 640, 480, id="the same"),
        pytest.param((641, 479), 224, 167, id="rounded"),
        pytest.param((4000, 3), 224, 1, id="not less than one line"),
    ],
)
def test_tiles_keep_the_proportions(frame, width, height):
    assert TileSize(*frame, width).height == height
    pixels = np.zeros((2, frame[1], frame[0], 3), np.uint8)
    assert tile_of(pixels[0], width).shape == (height, width, 3)
    assert tiles_of(pixels, width).shape == (2, height, width, 3)
    assert tiles_of(pixels[:0], width).shape == (0, height, width, 3)


def test_a_tile_is_the_frame_made_small():
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    frame = np.broadcast_to(ramp[None, :, None], (480, 640, 3))
    expected = np.linspace(0, 255, 224)
    assert np.abs(tile_of(frame, 224) - expected[None, :, None]).max() < 2
    assert np.array_equal(tile_of(np.ascontiguousarray(frame), 640), frame)


@pytest.mark.parametrize(
    ("modules", "default", "whole"),
    [
        pytest.param({"plan": {}}, None, set(), id="sheets alone"),
        pytest.param({"plan": {"input": "VideoUrl"}}, None, set(), id="clips alone"),
        pytest.param({"plan": {"input": "Frames"}}, None, {FRONT}, id="the plan looks at single frames"),
        pytest.param({"plan": {"input": "Frames"}}, WRIST, {WRIST}, id="of a camera that is named"),
        pytest.param({"plan": {}, "interjections": {}}, WRIST, {WRIST}, id="interjections"),
        pytest.param(
            {"plan": {}, "interjections": {"maxPerEpisode": 0}}, None, set(), id="speech without frames"
        ),
        pytest.param({"plan": {}, "vqa": {}}, None, {FRONT, WRIST}, id="questions about all cameras"),
        pytest.param({"plan": {}, "vqa": {"cameras": "Default"}}, None, {FRONT}, id="questions about one"),
    ],
)
def test_whole_frames_are_expected_of_the_cameras_that_a_module_shows_so(modules, default, whole):
    assert cameras_shown_whole(ModulesSpec.model_validate(modules), (FRONT, WRIST), default) == whole


def test_of_a_dataset_without_cameras_nothing_is_shown():
    assert (
        cameras_shown_whole(ModulesSpec.model_validate({"vqa": {}, "interjections": {}}), (), None) == set()
    )
