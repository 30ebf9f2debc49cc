"""What the modules ask of the model and what they make of it: whole runs on single episodes of the reference.

Episode 0 has 4 s and a task of its own; episode 1 has 7.5 s and the task "Stack blocks", which is short.
"""

import json
from collections import Counter

import pytest
from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest
from tests.support.module_runs import EVERY_MODULE, demo_model, kind_of, look, run_here, text_of
from tests.support.openai_server import Reply

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.demo.frame_code import read as read_code
from annotationrun_worker.errors import ConfigurationError, IncompleteError
from annotationrun_worker.modules.base import read_prompt

NOWHERE = "http://127.0.0.1:9/v1"
"""Nobody listens there."""
SHORT = {"episodes": "1"}
OWN = {"episodes": "0"}
COUNTS = {"questionTypes": ["count"]}
QUIET_PLAN = {"deriveTask": "Never", "taskRephrasings": 0, "emitMemory": False}


def contents(rows, style):
    return [row["content"] for row in rows if row["style"] == style]


def spoken(events):
    """By frame, what the robot says."""
    calls = {frame: [json.loads(call) for row in rows if row["style"] is None for call in row["tool_calls"]]
             for frame, rows in enumerate(events)}  # fmt: skip
    return {
        frame: [call["function"]["arguments"]["text"] for call in said]
        for frame, said in calls.items()
        if said
    }


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    """Every module over the episode whose task is short: (folder, what was asked)."""
    folder = tmp_path_factory.mktemp("derived")
    with demo_model() as server:
        run_here(folder, server.base_url, EVERY_MODULE, source=SHORT)
        return folder, list(server.bodies)


def test_the_derived_task_is_named_in_every_prompt_of_every_module(derived):
    """W10: there it was used by the plan module alone."""
    _, bodies = derived
    with_task = [body for body in bodies if kind_of(body) not in {"task", "coordinate_probe"}]
    assert {kind_of(body) for body in with_task} >= {"description", "subtasks", "memory", "rephrasings",
                                                     "speech", "interjection", "vqa_count"}  # fmt: skip
    tasks = {text_of(body).partition("\n")[0] for body in with_task}
    assert len(tasks) == 1
    assert tasks.pop().startswith("Task: Move the ")


def test_the_datasets_task_comes_first_then_the_derived_one_then_the_rephrasings(derived):
    folder, _ = derived
    rows = read_frames(folder / "output")[1].persistent
    task_aug = [row for row in rows if row["style"] == "task_aug"]
    staged = next((folder / "output.staging" / "results" / "plan").rglob("*.jsonl")).read_text().splitlines()
    in_order = [row["content"] for row in map(json.loads, staged[1:]) if row["style"] == "task_aug"]
    assert in_order[0] == "Stack blocks"
    assert in_order[1].startswith("Move the ")
    assert len(in_order) == 12
    assert sorted(in_order) == sorted(row["content"] for row in task_aug)
    assert {row["timestamp"] for row in task_aug} == {0.0}


def test_a_rerun_with_a_derived_task_needs_no_server(derived):
    folder, _ = derived
    report = run_here(folder, NOWHERE, EVERY_MODULE, source=SHORT)
    assert (report.annotated.results_made, report.annotated.results_reused) == (0, 3)
    assert not report.usage
    assert report.merge.unchanged


def test_memory_is_chained_and_stands_at_later_subtask_starts(derived):
    folder, bodies = derived
    episode = read_frames(folder / "output")[1]
    starts = sorted(row["timestamp"] for row in episode.persistent if row["style"] == "subtask")
    memory = sorted(
        (row["timestamp"], row["content"]) for row in episode.persistent if row["style"] == "memory"
    )
    assert len(starts) > 2
    assert [time for time, _ in memory] == starts[1:]
    previous = [text_of(body).partition("Previous memory: ")[2].partition("\n")[0]
                for body in bodies if kind_of(body) == "memory"]  # fmt: skip
    assert previous == ["", *(content for _, content in memory[:-1])]


def test_interjections_come_with_speech_at_subtask_starts_and_the_first_frame_has_speech_alone(derived):
    folder, _ = derived
    episode = read_frames(folder / "output")[1]
    starts = {row["timestamp"] for row in episode.persistent if row["style"] == "subtask"}
    at = {frame: contents(rows, "interjection") for frame, rows in enumerate(episode.events)}
    asked = {frame: texts for frame, texts in at.items() if texts}
    said = spoken(episode.events)
    assert 1 <= len(asked) <= 3
    assert all(len(texts) == 1 for texts in (*asked.values(), *said.values()))
    assert set(said) == {0, *asked}
    assert {float(episode.timestamps[frame]) for frame in asked} <= starts - {0.0}
    assert all(episode.timestamps[frame] >= 2.0 for frame in asked)


def test_the_five_axes_take_the_place_of_the_rephrasings(tmp_path):
    plan = {**QUIET_PLAN, "taskRephrasings": 10, "taskAxes": {"synonymParaphrase": 2}}
    with demo_model() as server:
        run_here(tmp_path, server.base_url, {"plan": plan}, source=OWN)
        asked = Counter(map(kind_of, server.bodies))
    assert asked["task_axes"] == 1
    assert asked["rephrasings"] == 0
    rows = contents(read_frames(tmp_path / "output")[0].persistent, "task_aug")
    assert len(rows) == 3, "the task and two paraphrases; it names no arm, orientation or way to grasp"


def test_overrides_and_the_language_reach_the_model_and_change_what_they_touch_alone(tmp_path):
    with demo_model() as server:
        modules = {"plan": QUIET_PLAN, "vqa": COUNTS}
        run_here(tmp_path, server.base_url, modules, source=OWN)
        first = len(server.bodies)
        run_here(
            tmp_path / "other", server.base_url, modules, source=OWN, staging={"uri": f"file://{tmp_path}/output.staging"},
            prompts={"vqa_count": "How many squares on {width} pixels?"},
        )  # fmt: skip
        overridden = server.bodies[first:]
        run_here(tmp_path / "french", server.base_url, modules, source=OWN, outputLanguage="French")
        french = server.bodies[first + len(overridden) :]
    assert {(kind_of(body), text_of(body)) for body in overridden} == {
        ("vqa_count", "How many squares on 320 pixels?")
    }
    assert len(french) == first > 0
    assert all("in French;" in text_of(body) for body in french)


def test_an_unknown_prompt_stops_the_run_before_anything_is_asked(tmp_path):
    with pytest.raises(ConfigurationError, match="'vqa_boxes', which is no prompt"):
        run_here(tmp_path, NOWHERE, {"vqa": {}}, source=OWN, prompts={"vqa_boxes": "x"})


def test_a_prompt_without_what_its_answers_depend_on_stops_plan_and_run(tmp_path):
    prompts = {"subtasks": "Task: {task}\n{shown}\nDivide it. {description}"}
    manifest = write_manifest(tmp_path, REFERENCE, NOWHERE, {"plan": QUIET_PLAN}, source=OWN, prompts=prompts)
    done = run_command("plan", "-f", manifest)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "spec.prompts.subtasks leaves out {window_seconds} (how many seconds are shown)" in done.stderr
    with pytest.raises(ConfigurationError, match=r"spec\.prompts\.subtasks leaves out \{window_seconds\}"):
        run_here(tmp_path, NOWHERE, {"plan": QUIET_PLAN}, source=OWN, prompts=prompts)


def test_a_prompt_that_is_only_poorer_is_a_warning_of_plan_and_run(tmp_path):
    prompts = {"vqa_count": "Count the squares in the image of {width}x{height} pixels of {camera}."}
    warning = "spec.prompts.vqa_count leaves out {task}, which the shipped prompt has"
    manifest = write_manifest(tmp_path, REFERENCE, NOWHERE, {"vqa": COUNTS}, source=OWN, prompts=prompts)
    planned = run_command("plan", "-f", manifest, "--json")
    assert planned.returncode == ExitCode.OK
    (told,) = json.loads(planned.stdout)["warnings"]
    assert told.startswith(warning)
    assert f"annotationrun: warning: {warning}" in planned.stderr
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, {"vqa": COUNTS}, source=OWN, prompts=prompts)
    assert report.annotated.warnings == [told]
    assert report.to_value()["warnings"] == [told]


def test_interjections_alone_use_the_subtasks_that_are_there(derived, tmp_path):
    folder, _ = derived
    with demo_model() as server:
        modules = {"interjections": {"maxPerEpisode": 100, "minTimeSeconds": 0}}
        report = run_here(tmp_path, server.base_url, modules, folder / "output", source=SHORT)
        asked = Counter(map(kind_of, server.bodies))
    episode = read_frames(tmp_path / "output")[1]
    starts = {row["timestamp"] for row in episode.persistent if row["style"] == "subtask"}
    at = {float(episode.timestamps[frame]) for frame, rows in enumerate(episode.events)
          if contents(rows, "interjection")}  # fmt: skip
    assert at == starts - {0.0}
    assert asked == {"speech": 1, "interjection": len(starts) - 1}
    assert report.annotated.speech_only == []


def test_interjections_without_subtasks_give_the_first_speech_alone_and_say_so(tmp_path):
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, {"interjections": {}}, source=OWN)
        assert [kind_of(body) for body in server.bodies] == ["speech"]
    assert report.annotated.speech_only == [0]
    assert set(spoken(read_frames(tmp_path / "output")[0].events)) == {0}


def test_kept_rows_are_not_asked_for_again_and_the_rest_builds_on_them(derived, tmp_path):
    folder, _ = derived
    modules = {"plan": {**QUIET_PLAN, "minSubtaskSeconds": 5}, "vqa": {"questionTypes": ["spatial"]}}
    with demo_model() as server:
        keep = {"path": str(tmp_path / "output"), "existingRows": "Keep"}
        report = run_here(tmp_path, server.base_url, modules, folder / "output", source=SHORT, output=keep)
        assert server.bodies == []
    assert report.annotated.results_made == 0
    before, after = (read_frames(place / "output")[1] for place in (folder, tmp_path))
    assert after.persistent == before.persistent
    assert after.events == before.events


def test_new_subtasks_under_old_interjections_are_refused(derived, tmp_path):
    folder, _ = derived
    with demo_model() as server, pytest.raises(ConfigurationError, match=r"spec\.output\.existingRows: Keep"):
        run_here(tmp_path, server.base_url, {"plan": QUIET_PLAN}, folder / "output", source=SHORT)


def test_a_prompt_that_no_enabled_module_asks_with_is_named(tmp_path):
    texts = {name: f"{read_prompt(name)} " for name in ("vqa_count", "speech", "task", "subtasks")}
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, {"plan": QUIET_PLAN}, source=OWN, prompts=texts)
    told = [text for text in report.annotated.warnings if text.startswith("spec.prompts.")]
    assert told == [
        f"spec.prompts.{name} has no effect: no enabled module asks with it"
        for name in ("speech", "vqa_count")
    ]


@pytest.mark.parametrize(
    ("attempts", "seeds"),
    [
        pytest.param(1, [1729, 1729], id="one attempt: the answer and its correction"),
        pytest.param(3, [1729, 1729, 1730], id="another attempt asks with another seed"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_as_often_as_the_manifest_says(tmp_path, attempts, seeds):
    def segment_badly_at_first(number, body):
        return Reply("I can't.") if kind_of(body) == "subtasks" and body["seed"] == 1729 else look(body)

    with demo_model(segment_badly_at_first) as server:
        run = {"source": OWN, "workers": {"episodeAttempts": attempts}}
        if attempts == 1:
            with pytest.raises(IncompleteError, match="episode 0, plan: the model's answer to 'subtasks'"):
                run_here(tmp_path, server.base_url, {"plan": QUIET_PLAN}, **run)
        else:
            report = run_here(tmp_path, server.base_url, {"plan": QUIET_PLAN}, **run)
            assert report.annotated.results_made == 1
        asked = Counter(map(kind_of, server.bodies))
        assert [body["seed"] for body in server.bodies if kind_of(body) == "subtasks"] == seeds
    assert asked["description"] == 1, "what was answered is not asked again"


def test_one_unusable_answer_among_few_is_a_hole_as_long_as_the_limit_allows_it(tmp_path):
    def say_nothing(number, body):
        return Reply('{"text": " "}') if kind_of(body) == "speech" else look(body)

    modules = {"interjections": {}, "vqa": COUNTS}
    with demo_model(say_nothing) as server:
        with pytest.raises(
            IncompleteError, match=r"interjections \(2 attempts\): 1 of 9 answers are unusable"
        ):
            run_here(tmp_path, server.base_url, modules, source=OWN, workers={"episodeAttempts": 2})
        asked = Counter(map(kind_of, server.bodies))
        report = run_here(
            tmp_path, server.base_url, modules, source=OWN, failurePolicy={"maxUnansweredPercent": 12}
        )
    assert asked == {"vqa_count": 8, "speech": 4}
    assert [
        (episode, question.kind, question.frame) for episode, _, question in report.annotated.unanswered
    ] == [(0, "speech", 0)]
    assert report.annotated.failures == []
    assert spoken(read_frames(tmp_path / "output")[0].events) == {}


def boxes(scale):
    """A probe answered in parts of the picture's sides times ``scale``."""
    squares = {"red": (80, 310, 180, 410), "green": (460, 60, 560, 160), "blue": (290, 200, 390, 300)}
    found = [
        {"label": colour, "bbox_format": "xyxy",
         "bbox": [scale * v / side for v, side in zip(box, (640, 480) * 2, strict=True)]}
        for colour, box in squares.items()
    ]  # fmt: skip
    return Reply(json.dumps({"boxes": found}))


def probed(scale):
    return lambda number, body: boxes(scale) if kind_of(body) == "coordinate_probe" else look(body)


def by_hand(endpoint, scale):
    serving = {"mode": "External", "endpoints": [endpoint]}
    return {"id": "demo-vlm", "coordinateScale": scale, "serving": serving}


def test_the_probe_is_asked_once_and_staged(tmp_path):
    with demo_model() as server:
        for folder in ("one", "two"):
            run_here(tmp_path / folder, server.base_url, {"vqa": {"questionTypes": ["bbox"]}},
                     source={"episodes": "0-1" if folder == "one" else "0-2"},
                     staging={"uri": f"file://{tmp_path}/staging"})  # fmt: skip
        assert Counter(map(kind_of, server.bodies))["coordinate_probe"] == 1


def test_no_probe_without_questions_for_coordinates(tmp_path):
    with demo_model() as server:
        run_here(tmp_path, server.base_url, {"vqa": COUNTS}, source=OWN)
        assert {kind_of(body) for body in server.bodies} == {"vqa_count"}


@pytest.mark.parametrize("is_set_by_hand", [False, True], ids=["by the table", "by hand"])
def test_a_model_that_answers_in_the_other_scale_stops_the_run(tmp_path, is_set_by_hand):
    with demo_model(probed(1000)) as server:
        model = {"model": by_hand(server.base_url, "Pixels")} if is_set_by_hand else {}
        with pytest.raises(
            ConfigurationError, match=r"in Thousandths, but Pixels are expected .*set spec.model"
        ):
            run_here(tmp_path, server.base_url, {"vqa": {}}, source=OWN, **model)
        assert {kind_of(body) for body in server.bodies} == {"coordinate_probe"}


def test_a_model_that_answers_in_neither_scale_stops_the_run_with_its_answer_quoted(tmp_path):
    with (
        demo_model(probed(1)) as server,
        pytest.raises(ConfigurationError, match=r'neither .* it said .*"bbox"'),
    ):
        run_here(tmp_path, server.base_url, {"vqa": {}}, source=OWN)


def test_a_scale_set_by_hand_goes_on_with_a_warning(tmp_path):
    with demo_model(probed(1)) as server:
        model = by_hand(server.base_url, "Pixels")
        report = run_here(tmp_path, server.base_url, {"vqa": {}}, source=OWN, model=model)
    (warning,) = report.annotated.warnings
    assert "going on, as spec.model.coordinateScale is set to Pixels" in warning


def test_a_clip_that_shows_a_whole_episode_is_said_to_have_the_rate_that_it_has(tmp_path):
    """16 samples of 7.5 s, thinned to 4: the plan's two a second would make it a clip of 1.5 s."""
    plan = {**QUIET_PLAN, "deriveTask": "Always", "input": "VideoUrl", "maxVideoFrames": 4}
    with demo_model() as server:
        run_here(tmp_path, server.base_url, {"plan": plan}, source=SHORT)
        (body,) = [body for body in server.bodies if kind_of(body) == "task"]
        rates = {other["mm_processor_kwargs"]["fps"] for other in server.bodies
                 if kind_of(other) == "subtasks"}  # fmt: skip
    (video,) = parse_request(body).images
    codes = [read_code(tile.pixels) for tile in video.tiles]
    episode = read_frames(tmp_path / "output")[1]
    true = [float(episode.timestamps[code["index"] - episode.first_index]) for code in codes]
    assert true[-1] == float(episode.timestamps[-1])
    assert [tile.seconds for tile in video.tiles] == pytest.approx(true, abs=0.25), (
        "a gap of the samples halved"
    )
    assert video.tiles[-1].seconds == pytest.approx(true[-1], abs=1e-3)
    fps = body["mm_processor_kwargs"]["fps"]
    assert fps == pytest.approx(3 / true[-1])
    assert f"The video has 4 frames in the order of time, {fps:g} of them a second;" in text_of(body)
    assert rates == {2.0}, "the windows are not thinned"
