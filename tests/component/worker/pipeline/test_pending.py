"""What `plan` counts as pending is what the next run asks about, whatever was edited in between."""

import json
import shutil
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import kind_of, look
from tests.support.openai_server import scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.demo.frame_code import read as read_code

VQA = {"questionTypes": ["count"], "emissionHz": 0.2, "cameras": "All"}
PLAN = {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}
BEFORE = {"modules": {"vqa": VQA, "plan": PLAN}, "source": {"episodes": "0-2"}}
EPISODES = [0, 1, 2]

EDITS = [
    pytest.param({}, [], id="nothing"),
    pytest.param({"frames": {"cacheBytes": 200_000_000}}, [], id="the cache of frames"),
    pytest.param({"frames": {"toleranceSeconds": 0.01}}, [], id="the tolerance of frames"),
    pytest.param({"workers": {"episodeConcurrency": 1}}, [], id="how much is done at once"),
    pytest.param({"model": {"requestTimeoutSeconds": 77}}, [], id="how long an answer may take"),
    pytest.param({"failurePolicy": {"maxFailedEpisodes": 1}}, [], id="what may fail"),
    pytest.param({"retryToken": "again"}, [], id="a retry token where nothing was given up"),
    pytest.param({"source": {"episodes": "1"}}, [], id="fewer episodes"),
    pytest.param({"source": {"episodes": "1-3"}}, [3], id="one more episode"),
    pytest.param({"modules": {"plan": PLAN}}, [], id="fewer modules"),
    pytest.param(
        {"modules": {"vqa": {**VQA, "emissionHz": 0.4}, "plan": PLAN}}, EPISODES, id="more questions"
    ),
    pytest.param({"modules": {"vqa": VQA, "plan": {**PLAN, "maxSteps": 7}}}, EPISODES, id="fewer steps"),
    pytest.param({"model": {"temperature": 0.5}}, EPISODES, id="the temperature"),
    pytest.param({"model": {"revision": "v2"}}, EPISODES, id="the model"),
    pytest.param({"seed": 5}, EPISODES, id="the seed"),
    pytest.param({"outputLanguage": "de"}, EPISODES, id="the language"),
    pytest.param(
        {
            "prompts": {
                "subtasks": "{task} {shown} {window_seconds} {min_subtask_seconds} {max_steps} {description}"
            }
        },
        EPISODES,
        id="a prompt",
    ),
]


class Story:
    """Runs and plans in one folder; the server knows which episodes it was shown."""

    def __init__(self, folder, endpoint, bodies):
        self.folder, self.endpoint, self._bodies = folder, endpoint, bodies

    def manifest(self, **edit):
        spec: dict[str, Any] = {**BEFORE, **edit}
        model = {"id": "demo-vlm", "serving": {"mode": "External", "endpoints": [self.endpoint]}}
        spec["model"] = {**model, **edit.get("model", {})}
        return write_manifest(self.folder, REFERENCE, self.endpoint, spec.pop("modules"), **spec)

    def plan(self, *arguments, **edit):
        done = run_command("plan", "-f", self.manifest(**edit), "--json", *arguments)
        assert done.returncode == ExitCode.OK, done.stderr
        return json.loads(done.stdout)

    def run(self, *arguments, **edit):
        """The episodes whose pixels were in the requests, and these."""
        before = len(self._bodies)
        done = run_command("run", "-f", self.manifest(**edit), *arguments)
        assert done.returncode == ExitCode.OK, done.stderr
        asked = self._bodies[before:]
        return sorted({episode for body in asked for episode in episodes_in(body)}), asked


def episodes_in(body):
    images = parse_request(body).images
    assert images, f"a request without pixels: {kind_of(body)}"
    codes = [read_code(tile.pixels) for image in images for tile in image.tiles]
    assert all(codes), "every frame of the reference dataset says which it is"
    return {code["episode"] for code in codes if code}


@contextmanager
def story_in(folder):
    with scripted_server(lambda number, body: look(body), models=("demo-vlm",)) as server:
        yield Story(folder, server.base_url, server.bodies)


@pytest.fixture
def story(tmp_path):
    with story_in(tmp_path) as story:
        yield story


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a complete run."""
    folder = tmp_path_factory.mktemp("complete")
    with story_in(folder) as story:
        first = story.plan()
        assert (first["pending"], first["pendingEpisodes"]) == (3, EPISODES)
        assert first["pendingTotal"] == first["total"]
        assert story.run()[0] == EPISODES
    return folder


@pytest.fixture
def continued(complete, tmp_path):
    """What follows a complete run."""
    shutil.copytree(complete, tmp_path / "story")
    with story_in(tmp_path / "story") as story:
        yield story


@pytest.mark.parametrize(("edit", "expected"), EDITS)
def test_pending_is_what_the_next_run_asks_about(edit, expected, continued, printed):
    story = continued
    planned = story.plan(**edit)
    asked, bodies = story.run(**edit)
    printed(
        f"{json.dumps(edit)[:90]:90} {planned['pending']:8} {len(asked):6}",
        "an edit after a complete run: episodes that are pending, and that are asked about",
    )
    assert planned["pendingEpisodes"] == asked == expected
    assert planned["pending"] == len(expected)
    assert planned["pendingTotal"]["requests"] >= len(bodies)
    assert (planned["pendingTotal"]["requests"] == 0) == (expected == [])
    after = story.plan(**edit)
    assert (after["pending"], after["pendingEpisodes"]) == (0, [])


def test_results_that_can_be_made_of_staged_answers_are_pending_all_the_same(continued):
    """What they are asked from are pixels, and a plan looks at none."""
    story, fewer = continued, {"vqa": {**VQA, "cameras": "Default"}, "plan": PLAN}
    assert story.plan(modules=fewer)["pendingEpisodes"] == EPISODES
    assert story.run(modules=fewer) == ([], [])
    assert story.plan(modules=fewer)["pending"] == 0


def test_an_edit_of_what_frames_cost_makes_no_new_plan(story):
    plans = {story.plan(frames={"cacheBytes": size})["plan"] for size in (100_000_000, 200_000_000)}
    assert len(plans) == 1


def test_a_derived_task_is_found_again_and_what_builds_on_it(story):
    modules = {"plan": {**PLAN, "deriveTask": "Always"}, "interjections": {"maxPerEpisode": 1}}
    assert story.plan(modules=modules)["pendingEpisodes"] == EPISODES
    done = run_command("run", "-f", story.manifest(modules=modules))
    assert done.returncode == ExitCode.OK, done.stderr
    assert story.plan(modules=modules)["pending"] == 0
    fewer = {"plan": modules["plan"]}
    assert story.plan(modules=fewer)["pending"] == 0
    other = {**modules, "interjections": {"maxPerEpisode": 1, "windowFrames": 3}}
    planned = story.plan(modules=other)
    assert planned["pendingEpisodes"] == EPISODES
    assert planned["pendingTotal"]["requests"] < planned["total"]["requests"], (
        "the plan module has its results"
    )


def test_rows_that_are_kept_are_not_pending(story, tmp_path):
    assert story.run(modules={"vqa": VQA})[0] == EPISODES
    kept = {"path": str(tmp_path / "kept"), "existingRows": "Keep"}
    source = {"path": str(tmp_path / "output"), "episodes": "1-3"}
    planned = story.plan(modules={"vqa": VQA}, source=source, output=kept, seed=9)
    assert planned["pendingEpisodes"] == [3]
    assert story.run(modules={"vqa": VQA}, source=source, output=kept, seed=9)[0] == [3]


def test_a_plan_changes_nothing_that_is_staged(story, tmp_path):
    story.run()
    story.plan()
    before = tree(tmp_path / "output.staging")
    assert any(name.startswith("index/") for name in before)
    story.plan()
    assert tree(tmp_path / "output.staging") == before


def test_results_that_have_gone_are_pending_again(story, tmp_path):
    story.run()
    gone = next((tmp_path / "output.staging/results/vqa").rglob("*.jsonl"))
    gone.unlink()
    assert story.plan()["pending"] == 1
