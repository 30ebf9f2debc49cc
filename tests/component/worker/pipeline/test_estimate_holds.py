"""What a plan says that a run will ask, against what real runs then ask of the demo model."""

import base64
import io
import threading
from collections import Counter

import PIL.Image
import pytest
from tests.support.annotation import REFERENCE, write_manifest
from tests.support.module_runs import EVERY_MODULE, demo_model, kind_of, look, run_here, text_of

from annotationrun_api.manifest import load_manifest
from annotationrun_worker.dataset.episodes import list_episodes, select_episodes
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.pipeline.estimate import Estimate, estimate_run, requests_at_once
from annotationrun_worker.vlm.messages import vision_grid

MODULE_OF_KIND = {
    "task": "task",
    **dict.fromkeys(("description", "subtasks", "rephrasings", "task_axes", "label", "memory"), "plan"),
    **dict.fromkeys(("speech", "interjection"), "interjections"),
}
DEADLINE_SECONDS = 120
"""For what happens at once unless something is wrong."""


def image_sizes(body):
    """(width, height) of the pictures in a request, in order."""
    parts = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    jpegs = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in parts]
    return [PIL.Image.open(io.BytesIO(jpeg)).size for jpeg in jpegs]


def asked_by_module(bodies):
    """What was asked, the tokens counted from the pictures and texts that were sent."""
    grid = vision_grid("demo-vlm")
    found = {}
    for body in bodies:
        sizes = image_sizes(body)
        tokens = len(text_of(body)) // 4 + sum(grid.image_tokens(*size) for size in sizes)
        module = MODULE_OF_KIND.get(kind_of(body), "vqa")
        found[module] = found.get(module, Estimate()) + Estimate(1, len(sizes), tokens)
    return found


def plan_of(folder, modules, **spec):
    """(spec, chosen episodes, features) of a run over the reference dataset."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load_manifest(write_manifest(folder, REFERENCE, "http://127.0.0.1:9/v1", modules, **spec)).spec
    info = read_info(REFERENCE)
    episodes = select_episodes(list_episodes(REFERENCE, info), loaded.source.episode_ranges)
    return loaded, episodes, read_features(info)


def describe(name, expected, actual):
    return (
        f"{name:>14}: requests {expected.requests} / {actual.requests}, images {expected.images} / "
        f"{actual.images}, prompt tokens {expected.prompt_tokens} / {actual.prompt_tokens}"
    )


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param({}, id="contact sheets"),
        pytest.param(
            {"input": "Frames", "seededRelabel": True, "taskAxes": {}}, id="frames, relabel and axes"
        ),
    ],
)
def test_a_run_asks_what_its_plan_said(plan, tmp_path, printed):
    modules = EVERY_MODULE | {"plan": plan}
    expected = estimate_run(*plan_of(tmp_path / "plan", modules))
    with demo_model() as server:
        run_here(tmp_path / "run", server.base_url, modules)
        actual = asked_by_module(server.bodies)
    for name in expected:
        printed(describe(name, expected[name], actual[name]), "estimated / asked")
    assert set(expected) == set(actual) == {"task", "plan", "interjections", "vqa"}
    for name in ("task", "vqa"):  # nothing of these is assumed
        assert (expected[name].requests, expected[name].images) == (
            actual[name].requests,
            actual[name].images,
        )
    for name, found in actual.items():
        assert expected[name].requests == pytest.approx(found.requests, rel=0.15)
        assert expected[name].images == pytest.approx(found.images, rel=0.1)
        assert expected[name].prompt_tokens == pytest.approx(found.prompt_tokens, rel=0.15)


def test_what_is_not_assumed_of_the_plan_module_is_exact(tmp_path):
    """Windows, sheets and variants; memory alone depends on how many subtasks are found."""
    modules = {"plan": {"emitMemory": False, "framesPerSecond": 3, "maxFramesPerPrompt": 25}}
    expected = estimate_run(*plan_of(tmp_path / "plan", modules))
    with demo_model() as server:
        run_here(tmp_path / "run", server.base_url, modules)
        actual = asked_by_module(server.bodies)
        kinds = Counter(kind_of(body) for body in server.bodies)
    assert kinds["subtasks"] > 6  # more than one window for some
    assert {name: (found.requests, found.images) for name, found in actual.items()} == {
        name: (found.requests, found.images) for name, found in expected.items()
    }


def test_all_requests_at_once_are_in_flight_together(tmp_path):
    """No answer is given before all of them are asked."""
    modules = {"plan": {"emitMemory": False}, "vqa": {"cameras": "Default", "questionTypes": ["count"]}}
    chosen = {"episodes": "0"}
    spec, (episode,), features = plan_of(tmp_path / "plan", modules, source=chosen)
    expected = requests_at_once(spec, episode, features.fps, features)
    together = threading.Barrier(expected)

    def answer_when_all_are_asked(number, body):
        if kind_of(body) != "subtasks":  # follows the description in its chain
            together.wait(DEADLINE_SECONDS)
        return look(body)

    with demo_model(answer_when_all_are_asked) as server:
        run_here(tmp_path / "run", server.base_url, modules, source=chosen)
        assert server.most_in_flight == expected == 6
