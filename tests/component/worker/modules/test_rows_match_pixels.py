"""No frame, no claim: each row is joined, by its request's digest, to the pixels that the model was shown.

The model's log holds the code drawn into every image and tile that it got, the time it read off each badge,
and what it answered. The rows in the dataset must speak of just those frames.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support.annotation import (
    CAMERAS,
    THIN_MODULES,
    Annotation,
    annotated,
    read_frames,
    staged_rows,
    written_rows,
)

BADGE_TOLERANCE_SECONDS = 0.005 + 1e-6
"""A badge has two decimals."""
VIDEO_TOLERANCE_SECONDS = 1 / 30 + 1e-3
"""A frame of the reference dataset."""
WINDOW_SECONDS, WINDOW_FRAMES = 1.5, 3


JOINED_STYLES = ("subtask", "interjection", "vqa")


@dataclass
class Join:
    """Rows that were joined to a request, and what does not fit."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    def check(self, holds: bool, message: str) -> None:
        if not holds:
            self.mismatches.append(message)


def join_rows(annotation: Annotation) -> Join:
    """Join every staged subtask, vqa and interjection row to the log, and say what is wrong."""
    requests = {line["digest"]: line for line in annotation.log_lines()}
    episodes = read_frames(annotation.output)
    join = Join()
    for row in staged_rows(annotation.staging):
        if row["style"] not in JOINED_STYLES:
            continue
        request = requests.get(row["request"])
        if request is None:
            join.mismatches.append(f"no such request: {row}")
            continue
        _JOIN_BY_KIND.get(request["kind"], _join_vqa)(join, row, request, episodes)
    return join


def _join_vqa(join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]) -> None:
    (image,) = request["images"]
    (tile,) = image["tiles"]
    code = tile["code"]
    frame = code["index"] - episodes[code["episode"]].first_index
    join.check(frame == row["frame"], f"frame {row['frame']} was asked about, frame {frame} was shown")
    join.check(CAMERAS[code["camera"]] == row["camera"], f"{row['camera']} was asked about, not shown")
    join.rows.append((code["episode"], frame, "vqa", row["role"], CAMERAS[code["camera"]], row["content"]))


def _shown_frames(
    join: Join, request: dict[str, Any], episodes: dict[int, Any]
) -> tuple[int, list[int], list[dict[str, Any]]]:
    """Number of the episode that the tiles show, their frames in it, and the tiles; the default camera's."""
    tiles = [tile for image in request["images"] for tile in image["tiles"]]
    codes = [tile["code"] for tile in tiles]
    number = codes[0]["episode"]
    join.check({code["episode"] for code in codes} == {number}, f"frames of several episodes: {codes}")
    join.check({code["camera"] for code in codes} == {0}, f"not the default camera: {codes}")
    return number, [code["index"] - episodes[number].first_index for code in codes], tiles


def _check_times(
    join: Join, episode: Any, frames: list[int], tiles: list[dict[str, Any]], is_video: bool
) -> dict[int, float]:
    """By frame, the time at which the model saw it: that since the first of the frames.

    It is read off the badge of a tile, or was told before a frame. In a video the frames stand at an even
    pace, so that they may be off by a frame, and the last one by more.
    """
    zero = float(episode.timestamps[frames[0]])
    seen = [tile["badge_seconds"] if tile["badge"] else tile["told_seconds"] for tile in tiles]
    checked = frames[:-1] if is_video else frames
    for frame, time in zip(checked, seen, strict=False):
        true = float(episode.timestamps[frame]) - zero
        join.check(
            abs(time - true) <= (VIDEO_TOLERANCE_SECONDS if is_video else BADGE_TOLERANCE_SECONDS),
            f"frame {frame} is {true:.3f} s after the first one, the model saw it at {time}",
        )
    return dict(zip(frames, seen, strict=True))


def _join_subtask(join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]) -> None:
    number, frames, tiles = _shown_frames(join, request, episodes)
    is_video = len(request["images"]) == 1 and tiles[0]["badge"] is None and len(tiles) > 1
    times = _check_times(join, episodes[number], frames, tiles, is_video)
    said = {(span["text"], round(span["start"], 2)) for span in request["answer"]["subtasks"]}
    start = times.get(row["frame"])
    join.check(
        start is not None and (row["content"], round(start, 2)) in said,
        f"episode {number}: {row['content']!r} starts at frame {row['frame']} (seen at {start}), "
        f"the model said {said}",
    )
    join.rows.append((number, row["frame"], "subtask", row["role"], row["camera"], row["content"]))


def _join_label(join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]) -> None:
    """A relabelled subtask: shown are its frames between those of its neighbours, and no others."""
    number, frames, tiles = _shown_frames(join, request, episodes)
    episode = episodes[number]
    _check_times(join, episode, frames, tiles, is_video=False)
    starts = _subtask_starts(episode)
    place = starts.index(row["frame"])
    ends = [*starts[1:], len(episode.timestamps)]
    for near in range(len(starts)):
        shown = [frame for frame in frames if starts[near] <= frame < ends[near]]
        expected = [starts[near], ends[near] - 1] if abs(near - place) <= 1 else []
        join.check(
            [*shown[:1], *shown[1:][-1:]] == expected, f"episode {number}, frame {row['frame']}: {frames}"
        )
    join.check(row["content"] == request["answer"]["label"], f"{row['content']!r} is not {request['answer']}")
    join.rows.append((number, row["frame"], "subtask", row["role"], row["camera"], row["content"]))


def _join_interjection(
    join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]
) -> None:
    """Shown are the frames around a subtask's start, each after its own time."""
    number, frames, tiles = _shown_frames(join, request, episodes)
    episode = episodes[number]
    times = [float(episode.timestamps[frame]) for frame in frames]
    middle = float(episode.timestamps[row["frame"]])
    asked = np.linspace(middle - WINDOW_SECONDS / 2, middle + WINDOW_SECONDS / 2, WINDOW_FRAMES)
    expected = sorted({int(np.abs(episode.timestamps - time).argmin()) for time in asked})
    join.check(
        frames == expected, f"episode {number}, frame {row['frame']}: shown were {frames}, not {expected}"
    )
    told = [tile["told_seconds"] for tile in tiles]
    join.check(
        max(abs(one - other) for one, other in zip(told, times, strict=True)) <= BADGE_TOLERANCE_SECONDS,
        f"episode {number}: the frames at {times} s were said to be at {told} s",
    )
    join.check(row["frame"] in _subtask_starts(episode)[1:], f"frame {row['frame']} is no boundary")
    join.check(
        row["content"] == request["answer"]["interjection"], f"{row['content']!r}: {request['answer']}"
    )
    join.rows.append((number, row["frame"], "interjection", row["role"], row["camera"], row["content"]))


def _subtask_starts(episode: Any) -> list[int]:
    times = [row["timestamp"] for row in episode.persistent if row["style"] == "subtask"]
    return sorted(int(np.flatnonzero(episode.timestamps == np.float32(time))[0]) for time in times)


_JOIN_BY_KIND = {"subtasks": _join_subtask, "label": _join_label, "interjection": _join_interjection}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Annotation:
    folder: Path = tmp_path_factory.mktemp("reference")
    with annotated(folder) as annotation:
        return annotation


def test_every_row_speaks_of_the_frames_that_the_model_was_shown(reference, printed):
    join = join_rows(reference)
    written = written_rows(reference.output, ("subtask", "vqa"))
    printed(f"{len(join.rows)} rows joined of {len(written)} written, {len(join.mismatches)} mismatches")
    assert join.mismatches == []
    assert Counter(join.rows) == Counter(written)
    assert len(written) > 400


@pytest.fixture(scope="module")
def with_interjections(tmp_path_factory: pytest.TempPathFactory) -> Annotation:
    modules = {
        "plan": {**THIN_MODULES["plan"], "seededRelabel": True},
        "interjections": {
            "windowSeconds": WINDOW_SECONDS,
            "windowFrames": WINDOW_FRAMES,
            "maxPerEpisode": 100,
        },
    }
    with annotated(
        tmp_path_factory.mktemp("more"), modules=modules, source={"episodes": "1,3,5"}
    ) as annotation:
        return annotation


def test_interjections_and_second_labels_speak_of_the_frames_that_the_model_was_shown(
    with_interjections, printed
):
    join = join_rows(with_interjections)
    written = written_rows(with_interjections.output, ("subtask", "interjection"))
    printed(f"{len(join.rows)} rows joined of {len(written)} written, {len(join.mismatches)} mismatches")
    assert join.mismatches == []
    assert Counter(join.rows) == Counter(written)
    assert Counter(row[2] for row in written)["interjection"] >= 10


@pytest.mark.parametrize("plan_input", ["Frames", "VideoUrl"])
def test_subtasks_speak_of_the_frames_shown_one_by_one_or_as_a_video(plan_input, tmp_path, printed):
    plan = {"plan": {**THIN_MODULES["plan"], "input": plan_input}}
    with annotated(tmp_path, modules=plan, source={"episodes": "1,4"}) as annotation:
        join = join_rows(annotation)
    written = written_rows(annotation.output, ("subtask",))
    assert {row[0] for row in written} == {1, 4}
    printed(f"{plan_input}: {len(join.rows)} rows joined, {len(join.mismatches)} mismatches")
    assert join.mismatches == []
    assert Counter(join.rows) == Counter(written)
    sent = [len(line["images"]) for line in annotation.log_lines() if line["kind"] == "subtasks"]
    # 7.5 s and 19 s at 2 Hz, and the last frame: 16 and 39 frames; a video has at most 32
    assert sorted(sent) == ([16, 39] if plan_input == "Frames" else [1, 1, 1])


def test_describe_and_segment_send_the_same_image_bytes(reference):
    by_kind = {"description": [], "subtasks": []}
    for line in reference.log_lines():
        if line["kind"] in by_kind:
            by_kind[line["kind"]].append(tuple(image["sha256"] for image in line["images"]))
    assert sorted(by_kind["description"]) == sorted(by_kind["subtasks"])
    assert len(by_kind["subtasks"]) == 8, "six episodes, two of them in two windows"


def test_windows_differ_by_one_frame_at_most_and_share_none(reference):
    frames = [
        [tile["code"]["index"] for image in line["images"] for tile in image["tiles"]]
        for line in reference.log_lines()
        if line["kind"] == "subtasks"
    ]
    of_episode_3 = sorted(part for part in frames if 705 <= part[0] < 705 + 903)
    assert [len(part) for part in of_episode_3] == [31, 31]
    assert len(set(of_episode_3[0]) & set(of_episode_3[1])) == 0
