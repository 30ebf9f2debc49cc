"""The demo model against the truth of the scenes it never saw being made: real frames, real HTTP."""

from itertools import pairwise

import numpy as np
import PIL.Image
import pytest
from tests.support.checkout import REFERENCE
from tests.support.demo import LAYOUT, ask, decode_video, frame_content, overlap, sheets_content

from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.dataset import EPISODES_PER_VIDEO_FILE, make_demo_dataset
from annotationrun_worker.demo.scene import (
    CAMERAS,
    FPS,
    DemoEpisode,
    boxes_truth,
    make_episodes,
    subtask_truth,
    world_state,
)
from annotationrun_worker.demo.vlm_server import run_server
from annotationrun_worker.modules.prompt_media import SheetLayout
from annotationrun_worker.vlm.messages import image_part, text_part, to_jpeg

EPISODES = make_episodes(4, 7)
VQA_EVERY_FRAMES = 12
EVERY_EPISODE = pytest.mark.parametrize("episode", EPISODES, ids=lambda e: f"episode {e.index}")
EVERY_CAMERA = pytest.mark.parametrize("camera", CAMERAS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with run_server(tmp_path_factory.mktemp("vlm") / "log.jsonl") as server:
        yield server.base_url


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """The decoded frames of an episode and camera, by (episode, camera)."""
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    make_demo_dataset(folder, episodes=len(EPISODES), seed=7)
    frames: dict[tuple[int, str], list[np.ndarray]] = {}
    for camera in CAMERAS:
        files = sorted((folder / "videos" / camera).rglob("*.mp4"))
        for number, file in enumerate(files):
            pictures = iter(decode_video(file))
            for episode in EPISODES[number * EPISODES_PER_VIDEO_FILE :][:EPISODES_PER_VIDEO_FILE]:
                frames[episode.index, camera] = [next(pictures) for _ in range(episode.frame_count)]
            assert next(pictures, None) is None
    return frames


@pytest.fixture(scope="module")
def reference_frames():
    video = REFERENCE / "videos/observation.images.front/chunk-000/file-000.mp4"
    return decode_video(video)[:600]


def two_per_second(episode: DemoEpisode) -> list[int]:
    return sorted({*range(0, episode.frame_count, FPS // 2), episode.frame_count - 1})


@EVERY_CAMERA
@EVERY_EPISODE
def test_the_subtasks_are_the_true_ones_to_half_a_second(server, decoded, episode, camera):
    numbers = two_per_second(episode)
    times = [number / FPS for number in numbers]
    pictures = [decoded[episode.index, camera][number] for number in numbers]
    spans = ask(server, "subtasks", sheets_content("subtasks", pictures, times))["subtasks"]
    truth = subtask_truth(episode)
    assert [span["text"] for span in spans] == [text for text, _, _ in truth]
    for span, (_, start, end) in zip(spans, truth, strict=True):
        assert abs(span["start"] - start) <= 0.5
        assert abs(span["end"] - end) <= 0.5
    assert {span["start"] for span in spans} <= {round(time, 2) for time in times}
    assert spans[-1]["end"] == round(times[-1], 2)
    assert all(one["end"] == other["start"] for one, other in pairwise(spans))


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(SheetLayout(5, 20, 224, 84), id="the default sheets"),
        pytest.param(SheetLayout(4, 12, 224, 84), id="other columns"),
        pytest.param(SheetLayout(3, 1, 200, 84), id="a sheet for each smaller frame"),
    ],
)
def test_the_times_are_read_off_the_badges_whatever_the_sheets_look_like(server, decoded, layout):
    episode = EPISODES[0]
    numbers = two_per_second(episode)
    shifted = [100.25 + number / FPS * 2 for number in numbers]
    pictures = [decoded[0, CAMERAS[0]][number] for number in numbers]
    spans = ask(server, "subtasks", sheets_content("subtasks", pictures, shifted, layout))["subtasks"]
    truth = subtask_truth(episode)
    assert [span["text"] for span in spans] == [text for text, _, _ in truth]
    for span, (_, start, _) in zip(spans, truth, strict=True):
        assert 100.25 + 2 * start <= span["start"] + 0.01 <= 100.25 + 2 * start + 1.02


def test_the_order_of_the_frames_counts_not_their_code(server, decoded):
    pictures = [decoded[0, CAMERAS[0]][number] for number in range(0, 60, 5)][::-1]
    spans = ask(server, "subtasks", sheets_content("subtasks", pictures, np.arange(12) / 2))["subtasks"]
    assert [span["text"].split()[0] for span in spans] == ["place", "pick"]


def test_the_description_tells_what_is_seen_and_when(server, decoded):
    pictures = [decoded[2, CAMERAS[0]][number] for number in two_per_second(EPISODES[2])]
    times = [number / FPS for number in two_per_second(EPISODES[2])]
    description = ask(server, "description", sheets_content("description", pictures, times))["description"]
    for text, _, _ in subtask_truth(EPISODES[2]):
        assert text in description
    assert "a green block" in description


@EVERY_CAMERA
@EVERY_EPISODE
def test_the_boxes_are_those_of_the_blocks_pads_and_gripper(server, decoded, episode, camera):
    for number in range(0, episode.frame_count, VQA_EVERY_FRAMES):
        content = frame_content(decoded[episode.index, camera][number])
        answer = ask(server, "vqa_bbox", content)["answer"]
        boxes = {found["label"]: found["bbox"] for found in answer["detections"]}
        truth = boxes_truth(episode, number, camera)
        assert boxes.keys() == truth.keys()
        for label, box in boxes.items():
            assert overlap(box, truth[label]) > 0.8, (number, label, box, truth[label])


@EVERY_CAMERA
@EVERY_EPISODE
def test_the_other_answers_hold_too(server, decoded, episode, camera):
    for number in range(0, episode.frame_count, VQA_EVERY_FRAMES):
        content = frame_content(decoded[episode.index, camera][number])
        truth = boxes_truth(episode, number, camera)
        count = ask(server, "vqa_count", content)["answer"]
        assert count == {"label": "block", "count": len(episode.blocks)}
        keypoint = ask(server, "vqa_keypoint", content)["answer"]
        x1, y1, x2, y2 = truth[keypoint["label"]]
        assert x1 < keypoint["point"][0] < x2
        assert y1 < keypoint["point"][1] < y2
        attribute = ask(server, "vqa_attribute", content)["answer"]
        assert attribute["value"] == true_state(episode, number, attribute["label"])
        spatial = ask(server, "vqa_spatial", content)["answer"]
        assert is_true(spatial, truth, held_block(episode, number)), (number, spatial)


def held_block(episode: DemoEpisode, number: int) -> str | None:
    return next(
        (f"{m.block} block" for m in episode.moves if m.close_frame <= number < m.release_frame), None
    )


def true_state(episode: DemoEpisode, number: int, label: str) -> str:
    released = {m.block: m.pad for m in episode.moves if m.release_frame <= number}
    colour, _, thing = label.partition(" ")
    if thing == "pad":
        return "occupied" if colour in released.values() else "empty"
    if thing == "block":
        if label == held_block(episode, number):
            return "held"
        return "on a pad" if colour in released else "on the table"
    return "closed" if world_state(episode, number).fingers == "closed" else "open"


def is_true(answer: dict[str, str], boxes: dict[str, tuple[float, ...]], held: str | None) -> bool:
    one, other = boxes[answer["subject"]], boxes[answer["object"]]
    match answer["relation"]:
        case "on":
            return answer["subject"] != held and abs(one[3] - other[1]) < 2 and other[0] < one[0] < other[2]
        case "in":
            return answer["subject"] == held and answer["object"] == "gripper"
        case "left_of":
            return one[0] < other[0]
        case "right_of":
            return one[0] > other[0]
    return False


def test_frames_with_their_times_in_the_text_are_understood_as_well(server, decoded):
    numbers = two_per_second(EPISODES[0])
    content = [text_part("Divide the demonstration into its subtasks.")]
    for number in numbers:
        jpeg = to_jpeg(PIL.Image.fromarray(decoded[0, CAMERAS[0]][number]), 84)
        content += [text_part(f"Frame at {number / FPS:.2f} s:"), image_part(jpeg)]
    spans = ask(server, "subtasks", content)["subtasks"]
    assert [span["text"] for span in spans] == [text for text, _, _ in subtask_truth(EPISODES[0])]


def test_the_reference_dataset_is_divided_by_the_way_of_its_square(server, reference_frames):
    numbers = list(range(0, 600, 15))
    pictures = [reference_frames[number] for number in numbers]
    spans = ask(server, "subtasks", sheets_content("subtasks", pictures, [n / 30 for n in numbers]))[
        "subtasks"
    ]
    assert 2 <= len(spans) <= 8
    assert spans[0]["start"] == 0
    assert all(span["end"] - span["start"] >= 1.5 for span in spans)
    assert {span["text"].rsplit(" ", 1)[1] for span in spans} == {"left", "right"}


@pytest.mark.parametrize("number", [0, 50, 333, 599])
def test_the_square_of_the_reference_dataset_is_found(server, reference_frames, number):
    picture = reference_frames[number]
    index = frame_code.read(picture)["index"]
    x, y = frame_code.square_xy(index, 0)
    truth = (x, y, x + frame_code.SQUARE, y + frame_code.SQUARE)
    content = frame_content(picture)
    (found,) = ask(server, "vqa_bbox", content)["answer"]["detections"]
    assert found["label"].endswith("square")
    assert overlap(found["bbox"], truth) > 0.8
    assert ask(server, "vqa_count", content)["answer"] == {"label": "square", "count": 1}
    point = ask(server, "vqa_keypoint", content)["answer"]["point"]
    assert max(abs(point[0] - x - 20), abs(point[1] - y - 20)) < 3
    attribute = ask(server, "vqa_attribute", content)["answer"]
    assert f"{attribute['value']} square" == found["label"]
    spatial = ask(server, "vqa_spatial", content)["answer"]
    assert spatial == {"subject": found["label"], "relation": "above", "object": "code strip"}


def test_where_nothing_is_recognised_the_answers_say_so(server):
    grey = np.full((360, 480, 3), 90, np.uint8)
    content = frame_content(grey)
    assert ask(server, "vqa_bbox", content)["answer"] == {"detections": []}
    assert ask(server, "vqa_count", content)["answer"]["count"] == 0
    assert ask(server, "vqa_keypoint", content)["answer"]["label"] == "centre of the image"
    assert ask(server, "vqa_attribute", content)["answer"] == {
        "label": "image",
        "attribute": "brightness",
        "value": "dark",
    }
    assert ask(server, "vqa_spatial", content)["answer"]["subject"] == "nothing recognised"
    sheets = sheets_content("subtasks", [grey] * 7, [n / 2 for n in range(7)], LAYOUT)
    assert ask(server, "subtasks", sheets) == {"subtasks": []}
