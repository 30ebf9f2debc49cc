"""Every module on the demo dataset, against what really happens in its scenes."""

import json

import numpy as np
import pytest
from tests.support.annotation import read_frames
from tests.support.demo import overlap
from tests.support.module_runs import EVERY_MODULE, demo_model, run_here

from annotationrun_worker.demo.dataset import make_demo_dataset
from annotationrun_worker.demo.scene import DemoEpisode, boxes_truth, make_episodes, subtask_truth

EPISODES = make_episodes(3, 7)
TOLERANCE_SECONDS = 0.5
EVERY_EPISODE = pytest.mark.parametrize("episode", EPISODES, ids=lambda e: f"episode {e.index}")
MODULES = {**EVERY_MODULE, "plan": {"seededRelabel": True}}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    make_demo_dataset(folder / "dataset", episodes=len(EPISODES), seed=7)
    with demo_model() as server:
        run_here(folder, server.base_url, MODULES, folder / "dataset")
    return read_frames(folder / "output")


def of_style(found, style):
    return sorted((row["timestamp"], row["content"]) for row in found.persistent if row["style"] == style)


@EVERY_EPISODE
def test_subtasks_are_those_of_the_scene_and_start_within_half_a_second(frames, episode: DemoEpisode):
    truth = subtask_truth(episode)
    found = of_style(frames[episode.index], "subtask")
    assert [text for _, text in found] == [text for text, _, _ in truth]
    distances = [abs(start - true) for (start, _), (_, true, _) in zip(found, truth, strict=True)]
    assert max(distances) <= TOLERANCE_SECONDS


@EVERY_EPISODE
def test_plan_rows_list_what_is_still_to_do(frames, episode: DemoEpisode):
    texts = [text for text, _, _ in subtask_truth(episode)]
    expected = [
        "\n".join(f"{n}. {text}" for n, text in enumerate(texts[done:], 1)) for done in range(len(texts))
    ]
    assert [plan for _, plan in of_style(frames[episode.index], "plan")] == expected


@EVERY_EPISODE
def test_memory_at_a_subtasks_start_holds_all_finished_ones_and_no_other(frames, episode: DemoEpisode):
    texts = [text for text, _, _ in subtask_truth(episode)]
    memory = of_style(frames[episode.index], "memory")
    starts = [time for time, _ in of_style(frames[episode.index], "subtask")]
    assert [time for time, _ in memory] == starts[1:]
    assert len(memory) == len(texts) - 1 > 0
    for done, (_, content) in enumerate(memory, 1):
        assert [text for text in texts if text in content] == texts[:done]


@EVERY_EPISODE
def test_interjections_ask_at_a_boundary_for_what_the_robot_then_does(frames, episode: DemoEpisode):
    found = frames[episode.index]
    following = dict(of_style(found, "subtask")[1:])
    events = {float(found.timestamps[frame]): rows for frame, rows in enumerate(found.events)}
    asked = {
        time: row["content"]
        for time, rows in events.items()
        for row in rows
        if row["style"] == "interjection"
    }
    allowed = {time for time in following if time >= 2.0}
    assert len(asked) == min(3, len(allowed)) > 0
    assert set(asked) <= allowed
    for time, content in asked.items():
        assert following[time] in content


@EVERY_EPISODE
def test_the_robot_speaks_at_the_start_and_at_each_interjection(frames, episode: DemoEpisode):
    found = frames[episode.index]
    styles = [{row["style"] for row in rows if row["style"] != "vqa"} for rows in found.events]
    assert styles[0] == {None}
    assert all(at in (set(), {None, "interjection"}) for at in styles[1:])
    assert {None, "interjection"} in styles[1:]
    (first,) = [row for row in found.events[0] if row["style"] is None]
    said = json.loads(first["tool_calls"][0])["function"]["arguments"]["text"]
    assert episode.task[1:] in said


@EVERY_EPISODE
def test_the_task_and_its_rephrasings_stand_at_the_first_frame(frames, episode: DemoEpisode):
    rows = of_style(frames[episode.index], "task_aug")
    assert {time for time, _ in rows} == {float(np.float32(0.0))}
    assert len(rows) == 11
    assert episode.task in [content for _, content in rows]


def answers(found, key):
    """(frame, camera, answer) of the vqa rows whose answer has `key`."""
    rows = [(frame, event) for frame, events in enumerate(found.events) for event in events]
    read = [
        (frame, event["camera"], json.loads(event["content"]))
        for frame, event in rows
        if event["style"] == "vqa" and event["role"] == "assistant"
    ]
    return [entry for entry in read if key in entry[2]]


@EVERY_EPISODE
def test_boxes_lie_on_the_blocks_of_their_own_frame_and_camera(frames, episode: DemoEpisode):
    found = answers(frames[episode.index], "detections")
    assert found
    for frame, camera, answer in found:
        truth = boxes_truth(episode, frame, camera)
        boxes = {detection["label"]: tuple(detection["bbox"]) for detection in answer["detections"]}
        blocks = [label for label in truth if label.endswith("block")]
        assert {label for label in boxes if label.endswith("block")} == set(blocks)
        assert min(overlap(boxes[label], truth[label]) for label in blocks) > 0.8, (frame, camera)


@EVERY_EPISODE
def test_counts_are_exact(frames, episode: DemoEpisode):
    found = answers(frames[episode.index], "count")
    assert found
    assert {answer["count"] for _, _, answer in found if answer["label"] == "block"} == {len(episode.blocks)}


@EVERY_EPISODE
def test_points_lie_within_what_they_name(frames, episode: DemoEpisode):
    found = answers(frames[episode.index], "point")
    assert found
    for frame, camera, answer in found:
        x1, y1, x2, y2 = boxes_truth(episode, frame, camera)[answer["label"]]
        x, y = answer["point"]
        assert x1 - 1 <= x <= x2 + 1, (frame, camera, answer)
        assert y1 - 1 <= y <= y2 + 1, (frame, camera, answer)
