"""What a plan says that a run will ask: counted from lengths and settings."""

from pathlib import Path

import pytest
from tests.support.manifests import local_run

from annotationrun_api.spec_modules import ModulesSpec
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, Features
from annotationrun_worker.errors import ConfigurationError, NoCamerasError, UnknownCameraError
from annotationrun_worker.pipeline.estimate import estimate_episode, estimate_run, requests_at_once
from annotationrun_worker.vlm.messages import MARKS, vision_grid

FPS = 30.0
FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")
FEATURES = Features(FPS, (FRONT, WRIST), {FRONT: (320, 240), WRIST: (640, 480)})
TASK = "Put the red cup on the tray"
BARE_PLAN = {"taskRephrasings": 0, "emitMemory": False, "describeFirst": False}


def spec_of(modules, model="demo-vlm", **others):
    spec = local_run().spec
    return spec.model_copy(
        update={
            "modules": ModulesSpec.model_validate(modules),
            "model": spec.model.model_copy(update={"id": model, "max_output_tokens": 512}),
            **others,
        }
    )


def episode_of(seconds, task=TASK, index=0):
    """An episode whose last frame is at `seconds`."""
    return EpisodeSummary(
        index=EpisodeIndex(index),
        tasks=(task,),
        length=round(seconds * FPS) + 1,
        data_path=Path("/nowhere"),
        dataset_from_index=0,
        videos={},
        image_cameras=(),
    )


def counts(modules, seconds, name, task=TASK):
    found = estimate_episode(spec_of(modules), episode_of(seconds, task), FPS, FEATURES)[name]
    return found.requests, found.images


@pytest.mark.parametrize(
    ("settings", "seconds", "questions"),
    [
        pytest.param({}, 4, 10, id="a question a second, and one at the start, for both cameras"),
        pytest.param({"cameras": "Default"}, 4, 5, id="the default camera alone"),
        pytest.param({"emissionHz": 2.0, "cameras": "Default"}, 4, 9, id="two ticks a second"),
        pytest.param({"framesPerTick": 3, "cameras": "Default"}, 4, 13, id="ticks stop at the last frame"),
        pytest.param({"cameras": "Default"}, 0, 1, id="an episode of one frame"),
    ],
)
def test_vqa_asks_one_question_with_one_picture_for_each_frame_and_camera(settings, seconds, questions):
    assert counts({"vqa": settings}, seconds, "vqa") == (questions, questions)


@pytest.mark.parametrize(
    ("settings", "seconds", "expected"),
    [
        pytest.param({}, 4, (1, 1), id="one window on one sheet"),
        pytest.param({}, 10, (1, 2), id="21 samples on two sheets"),
        pytest.param({}, 29.5, (1, 3), id="60 samples are one window"),
        pytest.param({}, 30, (2, 4), id="61 samples are two windows of two sheets"),
        pytest.param({"describeFirst": True}, 30, (4, 8), id="describe and segment see the same sheets"),
        pytest.param({"input": "Frames"}, 4, (1, 9), id="each sample a picture"),
        pytest.param({"input": "VideoUrl"}, 4, (1, 1), id="a clip counts as one"),
        pytest.param({"input": "VideoUrl"}, 16, (2, 2), id="33 samples are two clips"),
        pytest.param({"taskRephrasings": 10}, 4, (2, 1), id="rephrasings"),
        pytest.param({"taskAxes": {}}, 4, (2, 1), id="variants along axes"),
        pytest.param({"emitMemory": True}, 12, (1 + 3, 2), id="memory after all but the last of four"),
        pytest.param({"emitMemory": True, "maxSteps": 2}, 12, (1 + 1, 2), id="at most two subtasks"),
        pytest.param({"emitMemory": True, "minSubtaskSeconds": 6}, 12, (1 + 1, 2), id="subtasks of 6 s"),
        pytest.param({"emitMemory": True}, 0, (1, 1), id="an episode of one frame is one subtask"),
        pytest.param({"seededRelabel": True}, 12, (1 + 4, 2 + 4), id="four subtasks are looked at again"),
    ],
)
def test_plan_is_counted_by_windows_sheets_and_assumed_subtasks(settings, seconds, expected):
    assert counts({"plan": BARE_PLAN | settings}, seconds, "plan") == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, (1 + 3, 12), id="the speech, and three boundaries of four frames"),
        pytest.param({"maxPerEpisode": 0}, (1, 0), id="the speech alone"),
        pytest.param({"minTimeSeconds": 8}, (1 + 1, 4), id="one of the boundaries at 3, 6 and 9 s"),
        pytest.param({"windowFrames": 2}, (1 + 3, 6), id="two frames each"),
    ],
)
@pytest.mark.parametrize("others", [{}, {"plan": {}}], ids=["on rows that are there", "on the plan module"])
def test_interjections_are_counted_by_assumed_boundaries(settings, expected, others):
    assert counts({"interjections": settings, **others}, 12, "interjections") == expected


@pytest.mark.parametrize(
    ("settings", "task", "names"),
    [
        pytest.param({}, TASK, {"plan"}, id="the dataset's task serves"),
        pytest.param({}, "Stack", {"task", "plan"}, id="a short one is derived"),
        pytest.param({"deriveTask": "Never"}, "Stack", {"plan"}, id="off"),
        pytest.param({"deriveTask": "Always"}, TASK, {"task", "plan"}, id="always"),
    ],
)
def test_a_task_counts_where_it_would_be_derived(settings, task, names):
    found = estimate_episode(spec_of({"plan": settings}), episode_of(40, task), FPS, FEATURES)
    assert set(found) == names
    # 81 samples in two windows, but no more than 60 of them in the prompt for the task
    images = [estimate.images for name, estimate in found.items() if name == "task"]
    assert images == [3] * ("task" in names)


def test_without_a_task_that_is_derived_or_given_no_variants_are_asked_for():
    asked = {"plan": BARE_PLAN | {"taskRephrasings": 10, "deriveTask": "Never"}}
    assert counts(asked, 4, "plan", task=" ") == (1, 1)
    assert counts(asked, 4, "plan", task=TASK) == (2, 1)


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", (640, 480), 23 * 17, id="squares of 28 pixels"),
        pytest.param("Qwen/Qwen3-VL-8B-Instruct", (640, 480), 20 * 15, id="squares of 32 pixels"),
        pytest.param("someone/qwen3.6-27b-fp8", (640, 480), 20 * 15, id="a copy of another name"),
        pytest.param("another/model", (640, 480), 23 * 17, id="a model that is not known"),
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", (1120, 672), 40 * 24, id="a contact sheet"),
        pytest.param("Qwen/Qwen3-VL-8B-Instruct", (160, 120), 10 * 7, id="scaled up to 256 x 256 pixels"),
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", (8000, 4000), 181 * 90, id="scaled down"),
        pytest.param("Qwen/Qwen2.5-VL-7B-Instruct", (20, 2000), 71, id="a strip has one column"),
    ],
)
def test_pictures_cost_one_token_a_square(model, size, tokens):
    assert vision_grid(model).image_tokens(*size) == tokens + MARKS


def test_two_frames_of_a_clip_share_their_tokens():
    assert vision_grid("Qwen/Qwen3-VL-8B-Instruct").clip_tokens(640, 480, 5) == 3 * 20 * 15 + MARKS


def test_a_smaller_grid_and_larger_tiles_cost_more_prompt_tokens():
    def prompt_tokens(model, **settings):
        spec = spec_of({"plan": BARE_PLAN | settings}, model)
        return estimate_episode(spec, episode_of(4), FPS, FEATURES)["plan"].prompt_tokens

    # 9 tiles of 224 x 168 in 5 columns and 2 rows: 1120 x 336
    assert prompt_tokens("Qwen/Qwen2.5-VL-7B") - prompt_tokens("Qwen/Qwen3-VL-8B") == 40 * 12 - 35 * 10
    assert prompt_tokens("Qwen/Qwen2.5-VL-7B", tileWidth=448) > 3 * 40 * 12


def test_longer_prompts_of_the_manifest_count():
    def vqa(**spec):
        asked = spec_of({"vqa": {"questionTypes": ("count",), "cameras": "Default"}}, **spec)
        return estimate_episode(asked, episode_of(4), FPS, FEATURES)["vqa"].prompt_tokens

    short, long = vqa(prompts={"vqa_count": "x" * 400}), vqa(prompts={"vqa_count": "x" * 800})
    assert long - short == 5 * 100
    with pytest.raises(ConfigurationError, match="no_prompt"):
        vqa(prompts={"no_prompt": "x"})


def test_answers_are_never_longer_than_the_manifest_allows():
    spec = spec_of({"vqa": {}})
    tight = spec.model_copy(update={"model": spec.model.model_copy(update={"max_output_tokens": 16})})
    found = estimate_episode(tight, episode_of(4), FPS, FEATURES)["vqa"]
    assert found.answer_tokens == 16 * found.requests


def test_a_run_asks_once_what_it_asks_about_the_tasks_text_alone():
    spec = spec_of({"plan": BARE_PLAN | {"taskRephrasings": 10}, "interjections": {"maxPerEpisode": 0}})
    tasks = [TASK, TASK, "Stack the blue blocks", "Stack", "Stack"]
    episodes = [episode_of(4, task, index) for index, task in enumerate(tasks)]
    found = estimate_run(spec, episodes, FEATURES)
    assert found["task"].requests == 2
    assert found["plan"].requests == 5 + 4  # each derived task is another
    assert found["interjections"].requests == 4
    alone = [estimate_episode(spec, episode, FPS, FEATURES) for episode in episodes]
    assert sum(modules["plan"].requests for modules in alone) == 5 + 5


def test_a_run_counts_what_is_missing_and_checks_coordinates_once():
    episodes = [episode_of(4, index=index) for index in range(3)]
    modules = {"plan": BARE_PLAN, "vqa": {"cameras": "Default"}}
    found = estimate_run(
        spec_of(modules), episodes, FEATURES, lambda episode, name: name == "vqa" and episode.index > 0
    )
    assert {name: estimate.requests for name, estimate in found.items()} == {"vqa": 2 * 5 + 1}
    nothing = estimate_run(spec_of(modules), episodes, FEATURES, lambda episode, name: False)
    assert not nothing
    without_boxes = {"vqa": {"cameras": "Default", "questionTypes": ("count",)}}
    assert estimate_run(spec_of(without_boxes), episodes, FEATURES)["vqa"].requests == 3 * 5


@pytest.mark.parametrize(
    ("modules", "seconds", "expected"),
    [
        pytest.param({"vqa": {}}, 100, 202, id="all questions of vqa"),
        pytest.param({"plan": BARE_PLAN}, 100, 4, id="a chain for each of four windows"),
        pytest.param({"plan": {}}, 100, 5, id="rephrasings beside them"),
        pytest.param(
            {"plan": BARE_PLAN | {"seededRelabel": True}}, 100, 32, id="all subtasks looked at again"
        ),
        pytest.param({"interjections": {}}, 100, 4, id="the speech beside three interjections"),
        pytest.param({"plan": {}, "interjections": {}}, 100, 5, id="interjections come after the plan"),
        pytest.param({"plan": {}, "interjections": {}, "vqa": {}}, 4, 12, id="vqa is beside both"),
        pytest.param({"plan": BARE_PLAN}, 0, 1, id="an episode of one frame"),
    ],
)
def test_requests_at_once(modules, seconds, expected):
    assert requests_at_once(spec_of(modules), episode_of(seconds), FPS, FEATURES) == expected


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda *given: estimate_episode(*given), id="an estimate"),
        pytest.param(lambda *given: requests_at_once(*given), id="requests at once"),
    ],
)
def test_a_camera_that_is_not_there_is_an_error(ask):
    spec = spec_of({"vqa": {}})
    with pytest.raises(NoCamerasError):
        ask(spec, episode_of(4), FPS, Features(FPS, (), {}))
    elsewhere = spec.model_copy(update={"frames": spec.frames.model_copy(update={"default_camera": "top"})})
    with pytest.raises(UnknownCameraError, match=r"'top'.*observation\.images\.front"):
        ask(elsewhere, episode_of(4), FPS, FEATURES)


def test_the_manifests_default_camera_is_looked_at():
    spec = spec_of({"vqa": {"cameras": "Default"}})
    wrist = spec.model_copy(update={"frames": spec.frames.model_copy(update={"default_camera": WRIST})})
    front_tokens, wrist_tokens = (
        estimate_episode(one, episode_of(0), FPS, FEATURES)["vqa"].prompt_tokens for one in (spec, wrist)
    )
    assert wrist_tokens - front_tokens == 23 * 17 - 11 * 9
