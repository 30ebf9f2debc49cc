"""Every frame of the tests' datasets, asked for at its parquet timestamp, shows the code of its row.

`make frames-exact` runs this file; it prints for each dataset and backend how many frames were asked for and
how many were wrong, and last the count for the reference dataset with the default backend.
"""

import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
from tests.support.checkout import REFERENCE as DATASET
from tests.support.image_dataset import FRONT, WRIST, write_image_dataset

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.dataset import make_demo_dataset
from annotationrun_worker.video.backends import BACKENDS
from annotationrun_worker.video.provider import FrameProvider, FrameSettings, make_frame_provider

CHUNK_FRAMES = 200


def count_wrong_frames(root: Path, provider: FrameProvider) -> tuple[int, int]:
    """(frames asked, frames whose picture does not carry the index, camera and episode of its row)."""
    info = read_info(root)
    asked = wrong = 0
    for summary in list_episodes(root, info):
        episode = read_episode(root, info, summary, provider.camera_keys)
        of_episode = [("episode_index", "=", int(episode.index))]
        rows = pq.read_table(
            episode.data_path, columns=["timestamp", "index"], filters=of_episode
        ).to_pylist()
        for number, camera in enumerate(provider.camera_keys):
            for start in range(0, len(rows), CHUNK_FRAMES):
                chunk = rows[start : start + CHUNK_FRAMES]
                frames = provider.frames_at(episode, [row["timestamp"] for row in chunk], camera)
                for row, frame in zip(chunk, frames, strict=True):
                    expected = {"index": row["index"], "camera": number, "episode": int(episode.index)}
                    asked += 1
                    wrong += frame_code.read(frame.numpy()) != expected
    return asked, wrong


def count_wrong_by(backend: str, root: Path) -> tuple[int, int]:
    """(frames asked, wrong) of the whole dataset, decoded by ``backend``."""
    settings = FrameSettings(backend=backend, cache_bytes=0)
    with closing(make_frame_provider(read_features(read_info(root)), settings)) as provider:
        return count_wrong_frames(root, provider)


def count_frames(root: Path) -> int:
    """How many frames all cameras of a dataset have."""
    info = read_info(root)
    return int(info["total_frames"]) * len(read_features(info).cameras)


def make_datasets(folder: Path) -> dict[str, Path]:
    """The reference dataset and others that are written into ``folder``, by name."""
    make_demo_dataset(folder / "demo", episodes=2)
    write_image_dataset(folder / "images", {FRONT: "image", WRIST: "image"}, one_row_group=True)
    write_image_dataset(folder / "mixed", {FRONT: "image", WRIST: "video"})
    return {
        "reference": DATASET,
        "demo": folder / "demo",
        "image cameras": folder / "images",
        "an image and a video camera": folder / "mixed",
    }


def main() -> int:
    """Print the counts; 0 if every frame of every camera was asked for and was right."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    is_right = True
    with tempfile.TemporaryDirectory() as folder:
        for name, root in make_datasets(Path(folder)).items():
            for backend in BACKENDS:
                asked, wrong = counts[name, backend] = count_wrong_by(backend, root)
                print(f"{name:>28} {backend:>11}: {asked} asked, {wrong} wrong", flush=True)
                is_right = is_right and (asked, wrong) == (count_frames(root), 0)
    asked, wrong = counts["reference", "auto"]
    print(f"{asked} asked, {wrong} wrong")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
