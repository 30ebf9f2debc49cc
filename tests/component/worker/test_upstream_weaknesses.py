"""What LeRobot's annotation pipeline (0.6.1) does badly, and ours does not: a test for each, named after it.

W1 to W23 are its known weaknesses, F1 to F8 the faults seen in runs of it on the reference dataset.
Here: W1 to W11, W13 to W17, W21; F1 to F8. Elsewhere: W12 (holes of the validator) in
test_validate_dataset.py; W18 (docs against code) in tests/docs; W23 (image cameras, rows of styles that
nobody makes) in test_dataset_reading.py and test_merge_survivors.py. W19, W20 (download and upload) and W22
(the pod) belong to the Hub and the cluster, which this version does not reach yet.
"""

import json
import os
import shutil
import threading
import tracemalloc
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.support.annotation import (
    CAMERAS,
    REFERENCE,
    Annotation,
    read_frames,
    run_command,
    staged_rows,
    write_manifest,
)
from tests.support.openai_server import Reply, scripted_server

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.demo.answers import answer
from annotationrun_worker.demo.chat_request import parse_request
from annotationrun_worker.language.columns import LanguageRow, persistent_array

EVERYTHING = {"plan": {}, "interjections": {"minTimeSeconds": 1.0}, "vqa": {"emissionHz": 0.5}}
AT_ONCE = 16


def seen(number, body):
    """What the demo model answers."""
    return Reply(json.dumps(answer(parse_request(body))))


def kind_of(body):
    return body["response_format"]["json_schema"]["name"]


def text_of(body):
    content = body["messages"][0]["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return "\n".join(part["text"] for part in parts if part["type"] == "text")


def images_of(body):
    content = body["messages"][0]["content"]
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def run_with(script, folder, modules, expected=ExitCode.OK, dataset=REFERENCE, **spec):
    """Run against `script`; gives the run, its stderr, and the bodies that the server got."""
    folder.mkdir(parents=True, exist_ok=True)
    with scripted_server(script, models=("demo-vlm",)) as server:
        manifest = write_manifest(folder, dataset, server.base_url, modules, **spec)
        done = run_command("run", "-f", manifest)
        assert done.returncode == expected, done.stdout + done.stderr
        output, staging = folder / "output", folder / "output.staging"
        annotation = Annotation(dataset, output, staging, folder / "none", manifest, done.stdout)
        return annotation, done.stderr, server


WRIST_OF_THE_LAST_TWO = f"videos/{CAMERAS[1]}/chunk-000/file-001.mp4"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All modules over episodes 1 and 3: 'Stack blocks' (too short a task), 7.5 s and 30.1 s."""
    folder = tmp_path_factory.mktemp("everything")
    return run_with(seen, folder, EVERYTHING, source={"episodes": "1,3"})


@pytest.fixture(scope="module")
def bodies(everything):
    return everything[2].bodies


@pytest.fixture
def without_wrist_of_the_last_two(tmp_path):
    """Their video is cut off after its first bytes."""
    source = tmp_path / "damaged"
    shutil.copytree(REFERENCE, source)
    os.truncate(source / WRIST_OF_THE_LAST_TWO, 1000)
    return source


def test_w01_f2_a_rerun_asks_only_for_what_is_missing(tmp_path):
    """W1: no resume. F2: the server died in mid-run, and the rerun made all requests again."""

    def dies_after_five(number, body):
        return seen(number, body) if number < 5 else Reply(status=401, error="the server is going down")

    plan = {"plan": {}}
    selection = {"source": {"episodes": "0-1"}, "workers": {"requestConcurrency": 1}}
    _, _, first = run_with(dies_after_five, tmp_path, plan, ExitCode.CONFIGURATION, **selection)
    _, _, second = run_with(seen, tmp_path, plan, **selection)
    _, _, undisturbed = run_with(seen, tmp_path / "undisturbed", plan, **selection)
    assert len(first.bodies) - 1 + len(second.bodies) == len(undisturbed.bodies)


def test_f3_a_missing_video_is_named_before_anything_is_asked(tmp_path, without_wrist_of_the_last_two):
    """F3: an mp4 missing was one warning, exit 0, and 108 rows gone."""
    (without_wrist_of_the_last_two / WRIST_OF_THE_LAST_TWO).unlink()
    vqa = {"vqa": {"emissionHz": 0.5}}
    run, said, server = run_with(seen, tmp_path / "run", vqa, ExitCode.DATASET, without_wrist_of_the_last_two)
    assert f"{WRIST_OF_THE_LAST_TWO}' is missing" in said
    assert server.bodies == []
    assert not run.output.exists()


def test_w02_a_damaged_video_fails_its_episodes_by_name_and_no_other(tmp_path, without_wrist_of_the_last_two):
    """W2: one exception kills the run."""
    vqa = {"vqa": {"emissionHz": 0.5}}
    run, said, _ = run_with(seen, tmp_path / "run", vqa, ExitCode.INCOMPLETE, without_wrist_of_the_last_two)
    assert "2 of 6 episodes failed" in said
    assert "file-001.mp4" in said
    assert len(staged_rows(run.staging)) == 2 * 2 * sum(len(range(0, n, 60)) for n in (120, 225, 360, 903))
    assert not run.output.exists()


def test_w03_nothing_is_asked_about_frames_that_can_not_be_decoded(tmp_path, without_wrist_of_the_last_two):
    """W3: a failed decode gave no images, and the questions were asked all the same."""
    modules = {"plan": {}, "vqa": {}}
    _, _, server = run_with(
        seen, tmp_path / "run", modules, ExitCode.INCOMPLETE, without_wrist_of_the_last_two,
        source={"episodes": "5"}, frames={"defaultCamera": CAMERAS[1]},
    )  # fmt: skip
    seeing = [
        body for body in server.bodies if kind_of(body) in {"description", "subtasks"} or images_of(body)
    ]
    assert seeing == []


def test_w04_every_tile_shows_the_time_of_its_own_frame(everything):
    """W4: frames left out of the middle shifted the times of those that followed."""
    _, _, server = everything
    of_subtasks = [body for body in server.bodies if kind_of(body) == "subtasks"]
    assert len(of_subtasks) == 3
    for body in of_subtasks:
        tiles = parse_request(body).tiles
        times = [tile.seconds for tile in tiles]
        assert len(tiles) == int(text_of(body).split(" frames in total")[0].rsplit(" ", 1)[1])
        assert times == sorted(times)
        assert times[0] == 0.0
        assert np.allclose(np.diff(times)[:-1], 0.5, atol=0.011)


def test_w05_f1_rows_of_episodes_that_were_not_selected_survive(everything, tmp_path):
    """W5, F1: annotating some episodes erased the rows of the others in the same file."""
    before = read_frames(everything[0].output)
    assert before[1].persistent
    assert any(before[1].events)
    assert any(before[3].events)
    run, _, _ = run_with(
        seen, tmp_path, {"vqa": {"emissionHz": 1.0}}, dataset=everything[0].output, source={"episodes": "0"}
    )
    after = read_frames(run.output)
    assert after[1].persistent == before[1].persistent
    assert after[1].events == before[1].events
    assert after[3].events == before[3].events
    assert any(after[0].events)
    schemas = {str(pq.read_schema(file)) for file in (run.output / "data").rglob("*.parquet")}
    assert len(schemas) == 1


def test_w06_interjections_without_plan_rows_are_valid(tmp_path):
    """W6: interjections with emit_plan off always failed the validator."""
    modules = {"plan": {"emitPlan": False, "emitMemory": False}, "interjections": {"minTimeSeconds": 1.0}}
    run, _, _ = run_with(seen, tmp_path, modules, source={"episodes": "3"})
    assert run_command("validate", run.output).returncode == ExitCode.OK
    styles = Counter(row["style"] for row in staged_rows(run.staging))
    assert styles["interjection"] > 0
    assert styles["plan"] == 0


def test_w07_f7_every_interjection_has_its_plan_row_without_asking_again(everything):
    """W7, F7: a plan update step after the interjections that never added anything."""
    run, _, server = everything
    with_interjection = set()
    for number, episode in read_frames(run.output).items():
        plans = {row["timestamp"] for row in episode.persistent if row["style"] == "plan"}
        for frame, events in enumerate(episode.events):
            if any(event["style"] == "interjection" for event in events):
                assert float(episode.timestamps[frame]) in plans
                with_interjection.add(number)
    assert with_interjection == {1, 3}
    assert not {kind_of(body) for body in server.bodies} & {"plan", "plan_update"}


def test_w08_f5_no_window_is_a_sliver(bodies):
    """W8, F5: 30.1 s gave a second window of one frame, 0.067 s long, with a subtask of its own."""
    sizes = sorted(len(parse_request(body).tiles) for body in bodies if kind_of(body) == "subtasks")
    assert sizes == [16, 31, 31]


@pytest.mark.parametrize(("count", "seconds"), [(12, 0.4), (7, 2.0)], ids=["too short", "too many"])
def test_w09_the_limits_on_subtasks_are_enforced(count, seconds, tmp_path):
    """W9: minimal length and maximal number of subtasks were words in a prompt, and nothing else."""

    def many(number, body):
        if kind_of(body) != "subtasks":
            return seen(number, body)
        spans = [{"text": f"step {i}", "start": i * seconds, "end": (i + 1) * seconds} for i in range(count)]
        return Reply(json.dumps({"subtasks": spans}))

    plan = {"plan": {"maxSteps": 3, "minSubtaskSeconds": 1.5, "emitMemory": False, "taskRephrasings": 0}}
    run, _, _ = run_with(many, tmp_path, plan, source={"episodes": "3"})
    episode = read_frames(run.output)[3]
    starts = sorted(row["timestamp"] for row in episode.persistent if row["style"] == "subtask")
    assert len(starts) <= 2 * 3, "two windows of at most three"
    assert min(np.diff([*starts, float(episode.timestamps[-1])])) >= 1.5 - 1e-6


def test_w10_f7_every_prompt_names_the_derived_task(bodies):
    """W10, F7: the task derived from the video was used by the plan module alone."""
    derived = [body for body in bodies if kind_of(body) == "task"]
    assert len(derived) == 2
    others = [text_of(body) for body in bodies if kind_of(body) != "task"]
    assert others
    assert not [text for text in others if "Task: Stack blocks" in text]


def test_w11_an_answer_of_another_type_or_outside_the_image_is_not_taken(tmp_path):
    """W11: the type asked for was not compared with the answer's, boxes were not checked at all."""

    def wrong(number, body):
        bbox = {"label": "a", "bbox_format": "xyxy", "bbox": [0, 0, 5000, 10]}
        replies = {
            "vqa_bbox": {"question": "where?", "answer": {"detections": [bbox]}},
            "vqa_count": {"question": "how many?", "answer": {"label": "a", "attribute": "b", "value": "c"}},
        }
        return Reply(json.dumps(replies[kind_of(body)])) if kind_of(body) in replies else seen(number, body)

    types = {"questionTypes": ["bbox", "count"]}
    run, said, _ = run_with(
        wrong,
        tmp_path,
        {"vqa": types},
        ExitCode.INCOMPLETE,
        source={"episodes": "0"},
        workers={"episodeAttempts": 1},
    )
    assert "answers are unusable" in said
    assert not run.output.exists()


def test_w13_f2_rows_of_a_module_that_is_off_and_of_other_settings_are_not_written(tmp_path):
    """W13, F2: a rerun with VQA off still wrote the VQA rows staged before."""
    selection = {"source": {"episodes": "0"}}
    first, _, _ = run_with(seen, tmp_path, {"plan": {"emitMemory": False}, "vqa": {}}, **selection)
    shutil.rmtree(first.output)  # else the rows that are published would stay
    run, _, server = run_with(seen, tmp_path, {"plan": {"emitMemory": False}}, **selection)
    assert "vqa" in {row["style"] for row in staged_rows(run.staging)}
    assert server.bodies == []
    episode = read_frames(run.output)[0]
    assert not any(episode.events)
    assert {row["style"] for row in episode.persistent} == {"subtask", "plan", "task_aug"}


def test_w14_f8_requests_are_kept_in_flight_up_to_the_limit_and_not_above(tmp_path):
    """W14, F8: at most one request an episode outside VQA; and 48 at once where 16 were asked for."""
    together = threading.Barrier(AT_ONCE)

    def wait_for_the_others(number, body):
        if number < AT_ONCE * 4 and images_of(body):
            # a broken barrier only means that fewer came together, which the assertion below sees
            try:
                together.wait(timeout=0.5)
            except threading.BrokenBarrierError:
                together.reset()
        return seen(number, body)

    modules = {"plan": {"taskRephrasings": 0, "emitMemory": False}, "vqa": {}}
    _, _, server = run_with(
        wait_for_the_others,
        tmp_path,
        modules,
        source={"episodes": "0-3"},
        workers={"requestConcurrency": AT_ONCE},
    )
    assert server.most_in_flight == AT_ONCE


def test_w15_f4_images_are_sent_as_the_jpeg_they_were_made_as(bodies):
    """W15, F4: JPEG sheets were decoded and sent again as PNG, five times the bytes."""
    urls = [url for body in bodies for url in images_of(body)]
    assert urls
    assert all(url.startswith("data:image/jpeg;base64,/9j/") for url in urls)
    by_kind = {"description": [], "subtasks": []}
    for body in bodies:
        if kind_of(body) in by_kind:
            by_kind[kind_of(body)].append(images_of(body))
    assert sorted(by_kind["description"]) == sorted(by_kind["subtasks"]) != []


def test_w16_questions_of_one_episode_go_to_one_server(tmp_path):
    """W16: round robin sent describe and segment of one episode to different replicas."""
    with scripted_server(seen, models=("demo-vlm",)) as a, scripted_server(seen, models=("demo-vlm",)) as b:
        manifest = write_manifest(tmp_path, REFERENCE, a.base_url, {"plan": {}}, source={"episodes": "0-5"})
        manifest.write_text(manifest.read_text().replace(a.base_url, f"{a.base_url}, {b.base_url}"))
        text = manifest.read_text().replace(
            f"- {a.base_url}, {b.base_url}", f"- {a.base_url}\n      - {b.base_url}"
        )
        manifest.write_text(text)
        done = run_command("run", "-f", manifest)
        assert done.returncode == 0, done.stderr
        sheets = [
            {tuple(images_of(body)) for body in server.bodies if kind_of(body) in {"description", "subtasks"}}
            for server in (a, b)
        ]
    assert not sheets[0] & sheets[1], "the same sheets went to both"
    assert sheets[0]
    assert sheets[1]


def test_w17_requests_are_reproducible(bodies, everything, tmp_path):
    """W17: no seed in the requests, so that no run could be repeated."""
    assert {body["seed"] for body in bodies} == {1729}
    _, _, again = run_with(seen, tmp_path, EVERYTHING, source={"episodes": "1,3"})
    digests = [sorted(json.dumps(body, sort_keys=True) for body in run) for run in (bodies, again.bodies)]
    assert digests[0] == digests[1]


def test_f3_a_model_that_never_answers_json_is_an_error_and_nothing_is_written(tmp_path):
    """F3: 496 requests, exit 0, six rows, and no count of what was dropped."""
    run, said, server = run_with(
        lambda n, b: Reply("As an AI, I see a robot."), tmp_path, {"plan": {"deriveTask": "Never"}},
        ExitCode.INCOMPLETE, source={"episodes": "0"}, workers={"episodeAttempts": 1},
    )  # fmt: skip
    assert "1 of 1 episodes failed" in said
    assert "As an AI, I see a robot." in said
    assert not run.output.exists()
    assert len(server.bodies) < 10


def test_f6_samples_are_half_a_second_apart_and_no_frame_is_sent_in_two_windows(bodies):
    """F6: '2 Hz' was a step of 0.508 s within a window, and the border frame was sent in both."""
    windows = [parse_request(body).tiles for body in bodies if kind_of(body) == "subtasks"]
    of_the_long = [tiles for tiles in windows if len(tiles) == 31]
    assert len(of_the_long) == 2
    for tiles in of_the_long:
        steps = np.diff([tile.seconds for tile in tiles])
        assert np.allclose(steps[:-1], 0.5, atol=0.011)
    pictures = [{tile.pixels.tobytes() for tile in tiles} for tiles in of_the_long]
    assert not pictures[0] & pictures[1]


def test_w21_rows_are_not_python_objects_for_every_frame():
    """W21: the writer built a Python list of dicts for every frame."""
    row = LanguageRow("user", "text", "task_aug", None, None, 0.0)
    tracemalloc.start()
    try:
        array = persistent_array((row,) * 20, 10_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(array) == 10_000
    assert 0 < peak_bytes < 1_000_000, "200,000 dicts would be more than 30 MB"
