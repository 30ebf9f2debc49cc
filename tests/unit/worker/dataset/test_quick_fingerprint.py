"""The quick fingerprint of an episode: what another one means, and that no file is read for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotationrun_worker.dataset.layout import FolderFiles
from annotationrun_worker.dataset.types import (
    CameraKey,
    EpisodeIndex,
    EpisodeRecord,
    ImageSpan,
    VideoSpan,
    quick_fingerprint,
    quick_parts,
)
from annotationrun_worker.errors import DatasetError

FRONT, WRIST, STILL = map(CameraKey, ("front", "wrist", "still"))
CAMERAS = [FRONT, WRIST, STILL]
EPISODE = EpisodeRecord(
    index=EpisodeIndex(3),
    task="Put the red cup on the tray",
    timestamps_seconds=np.arange(4, dtype=np.float32) / 10,
    fps=10.0,
    data_path=Path("/d/data.parquet"),
    dataset_from_index=7,
    videos={
        FRONT: VideoSpan(Path("/d/front.mp4"), 1.0, 1.4),
        WRIST: VideoSpan(Path("/d/wrist.mp4"), 1.0, 1.4),
    },
    images={STILL: ImageSpan(Path("/d/data.parquet"), "still", 7, 4, Path("/d"))},
)


def fingerprint(episode: EpisodeRecord = EPISODE, cameras: Any = (FRONT, STILL), version: str = "1") -> str:
    """Of the given cameras, all files being of the given version."""
    parts = quick_parts(episode, CAMERAS, lambda path: f"{path} {version}")
    return quick_fingerprint(episode.task, parts, cameras)


SAME = [
    pytest.param({"index": EpisodeIndex(4)}, id="another number"),
    pytest.param({"dataset_from_index": 99}, id="another place among all frames"),
    pytest.param(
        {"videos": {**EPISODE.videos, WRIST: VideoSpan(Path("/d/other.mp4"), 0.0, 0.4)}}, id="another camera"
    ),
]
OTHER = [
    pytest.param({"task": "Put the blue cup on the tray"}, id="task"),
    pytest.param({"fps": 20.0}, id="frame rate"),
    pytest.param({"timestamps_seconds": EPISODE.timestamps_seconds * np.float32(1.0001)}, id="times"),
    pytest.param({"videos": {FRONT: VideoSpan(Path("/d/front.mp4"), 1.1, 1.5)}}, id="place in the video"),
    pytest.param({"videos": {FRONT: VideoSpan(Path("/d/more.mp4"), 1.0, 1.4)}}, id="video"),
    pytest.param(
        {"images": {STILL: ImageSpan(Path("/d/data.parquet"), "still", 8, 4, Path("/d"))}},
        id="rows of pictures",
    ),
]


@pytest.mark.parametrize("change", SAME)
def test_what_the_modules_do_not_see_changes_nothing(change: dict[str, Any]) -> None:
    assert fingerprint(replace(EPISODE, **change)) == fingerprint()


@pytest.mark.parametrize("change", OTHER)
def test_what_they_see_changes_it(change: dict[str, Any]) -> None:
    assert fingerprint(replace(EPISODE, **change)) != fingerprint()


def test_other_cameras_and_other_versions_of_files_change_it() -> None:
    found = [
        fingerprint(),
        fingerprint(version="2"),
        fingerprint(cameras=[FRONT]),
        fingerprint(cameras=CAMERAS),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(cameras=[STILL, FRONT, FRONT]) == fingerprint()


def test_a_file_in_a_folder_is_of_another_version_when_it_was_written_to(tmp_path: Path) -> None:
    files, video = FolderFiles(tmp_path), tmp_path / "front.mp4"
    video.write_bytes(b"a video")
    first = files.version_of(video)
    assert files.version_of(video) == first
    video.write_bytes(b"another one")
    assert files.version_of(video) != first
    video.unlink()
    with pytest.raises(DatasetError, match=r"front\.mp4 can't be read"):
        files.version_of(video)
