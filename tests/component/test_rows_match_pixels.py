"""No frame, no claim: each row is joined, by its request's digest, to the pixels that the model was shown.

The model's log holds the code drawn into every image and tile that it got, the time it read off each badge,
and what it answered. The rows in the dataset must speak of just those frames.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import CAMERAS, Annotation, annotated, read_frames, staged_rows, written_rows

BADGE_TOLERANCE_SECONDS = 0.005 + 1e-6
"""A badge has two decimals."""


@dataclass
class Join:
    """Rows that were joined to a request, and what does not fit."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    def check(self, holds: bool, message: str) -> None:
        if not holds:
            self.mismatches.append(message)


def join_rows(annotation: Annotation) -> Join:
    """Join every staged subtask and vqa row to the log, and say what is wrong."""
    requests = {line["digest"]: line for line in annotation.log_lines()}
    episodes = read_frames(annotation.output)
    join = Join()
    for row in staged_rows(annotation.staging):
        if row["style"] not in {"subtask", "vqa"}:
            continue
        request = requests.get(row["request"])
        if request is None:
            join.mismatches.append(f"no such request: {row}")
            continue
        joined = _join_vqa if row["style"] == "vqa" else _join_subtask
        joined(join, row, request, episodes)
    return join


def _join_vqa(join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]) -> None:
    (image,) = request["images"]
    (tile,) = image["tiles"]
    code = tile["code"]
    frame = code["index"] - episodes[code["episode"]].first_index
    join.check(frame == row["frame"], f"frame {row['frame']} was asked about, frame {frame} was shown")
    join.check(CAMERAS[code["camera"]] == row["camera"], f"{row['camera']} was asked about, not shown")
    join.rows.append((code["episode"], frame, "vqa", row["role"], CAMERAS[code["camera"]], row["content"]))


def _join_subtask(join: Join, row: dict[str, Any], request: dict[str, Any], episodes: dict[int, Any]) -> None:
    tiles = [tile for image in request["images"] for tile in image["tiles"]]
    codes = [tile["code"] for tile in tiles]
    number = codes[0]["episode"]
    episode = episodes[number]
    join.check({code["episode"] for code in codes} == {number}, f"frames of several episodes: {codes}")
    join.check({code["camera"] for code in codes} == {0}, f"not the default camera: {codes}")
    frames = [code["index"] - episode.first_index for code in codes]
    zero = float(episode.timestamps[frames[0]])
    badges = {}
    for tile, frame in zip(tiles, frames, strict=True):
        time = float(episode.timestamps[frame]) - zero
        badges[frame] = tile["badge_seconds"]
        join.check(
            abs(tile["badge_seconds"] - time) <= BADGE_TOLERANCE_SECONDS,
            f"episode {number}, frame {frame} is at {time:.3f} s, its badge says {tile['badge']}",
        )
    said = {(span["text"], round(span["start"], 2)) for span in request["answer"]["subtasks"]}
    start = badges.get(row["frame"])
    join.check(
        start is not None and (row["content"], round(start, 2)) in said,
        f"episode {number}: {row['content']!r} starts at frame {row['frame']} (badge {start}); said: {said}",
    )
    join.rows.append((number, row["frame"], "subtask", row["role"], row["camera"], row["content"]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Annotation:
    folder: Path = tmp_path_factory.mktemp("reference")
    with annotated(folder) as annotation:
        return annotation


def test_every_row_speaks_of_the_frames_that_the_model_was_shown(reference, capsys):
    join = join_rows(reference)
    written = written_rows(reference.output, ("subtask", "vqa"))
    with capsys.disabled():
        print(f"\n{len(join.rows)} rows joined of {len(written)} written, {len(join.mismatches)} mismatches")
    assert join.mismatches == []
    assert Counter(join.rows) == Counter(written)
    assert len(written) > 400


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
