"""The largest prompts of a run, by which its servers are tried before the first question."""

from pathlib import Path

import pytest
from tests.support.manifests import local_run

from annotationrun_api.spec_modules import ModulesSpec
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, Features
from annotationrun_worker.pipeline.capacity import server_needs
from annotationrun_worker.vlm.request import LargeClip, Sampling

FPS = 10.0
FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")
FEATURES = Features(FPS, (FRONT, WRIST), {FRONT: (320, 240), WRIST: (640, 480)})
SAMPLING = Sampling("m", 0.2, 7, 64, {}, None)
FRAMES = {"input": "Frames", "framesPerSecond": 1.0, "maxFramesPerPrompt": 8, "deriveTask": "Never"}


def needs(modules, *seconds):
    spec = local_run().spec
    episodes = [
        EpisodeSummary(
            index=EpisodeIndex(index),
            tasks=("Put the red cup on the tray",),
            length=round(length * FPS) + 1,
            data_path=Path("/nowhere"),
            dataset_from_index=0,
            videos={},
            image_cameras=(),
        )
        for index, length in enumerate(seconds)
    ]
    spec = spec.model_copy(update={"modules": ModulesSpec.model_validate(modules)})
    return server_needs(spec, SAMPLING, episodes, FEATURES)


def sizes(modules, *seconds):
    return [list(prompt.image_sizes) for prompt in needs(modules, *seconds).prompts]


@pytest.mark.parametrize("seconds", [(2, 4), (4, 2)], ids=["the longer one last", "the longer one first"])
def test_the_longest_episode_decides(seconds):
    assert sizes({"plan": FRAMES}, *seconds) == [[(320, 240)] * 5]


def test_the_largest_picture_decides_where_each_prompt_has_one():
    assert sizes({"vqa": {"questionTypes": ("count",)}}, 2) == [[(640, 480)]]


def test_the_prompt_of_most_pictures_is_tried_beside_the_one_of_most_pixels():
    """Two small pictures have fewer pixels than one large one, and a server may take only one."""
    modules = {"plan": {**FRAMES, "maxFramesPerPrompt": 2}, "vqa": {"questionTypes": ("count",)}}
    assert sizes(modules, 1) == [[(640, 480)], [(320, 240)] * 2]


CLIPS = {**FRAMES, "input": "VideoUrl"}


def test_the_longest_clip_is_tried_where_clips_are_sent():
    (prompt,) = needs({"plan": CLIPS}, 2, 4).prompts
    assert prompt.clip == LargeClip(size=(320, 240), frame_count=5, fps=1.0)
    assert prompt.settings == "spec.modules.plan.maxVideoFrames"
    (labels,) = needs({"plan": {**CLIPS, "seededRelabel": True}}, 4).prompts
    assert (labels.clip.frame_count, labels.settings) == (15, "spec.modules.plan.relabelFrames")


@pytest.mark.parametrize(
    ("seconds", "pictures"),
    [
        pytest.param(2, [1, 0], id="a picture with more pixels than the clip"),
        pytest.param(4, [0, 1], id="a clip with more pixels than the picture"),
    ],
)
def test_a_clip_and_a_picture_are_tried_where_both_are_sent(seconds, pictures):
    prompts = needs({"plan": CLIPS, "vqa": {"questionTypes": ("count",)}}, seconds).prompts
    assert [len(prompt.image_sizes) for prompt in prompts] == pictures
    assert [prompt.clip is not None for prompt in prompts] == [not count for count in pictures]


def test_no_clip_is_tried_where_none_is_sent():
    assert {prompt.clip for prompt in needs({"plan": FRAMES, "vqa": {}}, 4).prompts} == {None}


def test_settings_that_decide_the_size_are_named():
    (prompt,) = needs({"plan": FRAMES}, 4).prompts
    assert prompt.settings == "spec.modules.plan.maxFramesPerPrompt"
    assert "Put the red cup on the tray" in prompt.text


@pytest.mark.parametrize(
    ("types", "is_asked"), [(("count",), False), (("bbox",), True)], ids=["no coordinates", "boxes"]
)
def test_the_scale_of_coordinates_is_needed_where_coordinates_are_asked_for(types, is_asked):
    assert (needs({"vqa": {"questionTypes": types}}, 2).coordinate_scale is not None) is is_asked
