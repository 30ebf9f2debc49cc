"""The bound on pictures of a prompt, which the operator serves with, holds for what the worker will send."""

import pytest
from tests.unit.worker.pipeline.test_estimate import FEATURES, TASK, episode_of, spec_of

from annotationrun_api.prompt_media import PromptMedia, images_of_frames
from annotationrun_api.spec_modules import ModulesSpec, PlanModule
from annotationrun_worker.modules.prompt_media import SheetLayout
from annotationrun_worker.pipeline.capacity import server_needs
from annotationrun_worker.pipeline.wiring import make_sampling

LONG_SECONDS, SHORT_SECONDS = 119.5, 3.0  # the long one: 240 samples, windows of 60
MODULES = [
    pytest.param({"plan": {}}, id="contact sheets"),
    pytest.param({"plan": {"framesPerSheet": 7}}, id="sheets that are not full"),
    pytest.param({"plan": {"input": "Frames"}}, id="frames"),
    pytest.param({"plan": {"input": "VideoUrl"}}, id="a clip"),
    pytest.param({"plan": {"input": "VideoUrl"}, "vqa": {}}, id="a clip, and frames of another module"),
    pytest.param(
        {"plan": {"input": "Frames", "seededRelabel": True, "relabelFrames": 30}}, id="more to label again"
    ),
    pytest.param({"interjections": {"windowFrames": 9}}, id="interjections"),
    pytest.param({"interjections": {"maxPerEpisode": 0}, "vqa": {}}, id="no interjections"),
    pytest.param({"vqa": {}}, id="questions"),
]


def most_images(modules, seconds: float, task=TASK) -> int:
    spec = spec_of(modules)
    needs = server_needs(spec, make_sampling(spec), [episode_of(seconds, task)], FEATURES)
    return max(len(prompt.image_sizes) for prompt in needs.prompts)


def bound(modules) -> PromptMedia:
    return PromptMedia.of(ModulesSpec.model_validate(modules))


@pytest.mark.parametrize("modules", MODULES)
@pytest.mark.parametrize("task", [TASK, ""], ids=["a task", "a task to derive"])
def test_a_long_episode_fills_the_bound_and_a_short_one_keeps_to_it(modules, task):
    assert most_images(modules, LONG_SECONDS, task) == bound(modules).images
    assert most_images(modules, SHORT_SECONDS, task) <= bound(modules).images


@pytest.mark.parametrize("modules", MODULES)
def test_a_clip_is_allowed_for_where_one_is_sent(modules):
    assert bound(modules).videos == (modules.get("plan", {}).get("input") == "VideoUrl")


@pytest.mark.parametrize("frame_count", [1, 19, 20, 21, 60])
def test_sheets_are_counted_as_they_are_laid_out(frame_count):
    settings = PlanModule()
    assert images_of_frames(settings, frame_count) == len(SheetLayout.of(settings).slices(frame_count))
