"""A LeRobot v3.0 dataset of very many short episodes: metadata and rows as LeRobot writes them, no video.

    python -m tests.support.many_episodes FOLDER EPISODES [--one-row-group]

As LeRobot does it, each episode is a row group of its data file, and ``meta/episodes`` is written ten rows at
a time, with statistics of each episode that nobody reads here. The episodes are short, to be made quickly; a
data file holds as many as with episodes of usual length, which fill the 100 MB that LeRobot allows it. The
video files hold no video: whoever uses the dataset puts something in place of the decoder.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 15
CAMERA = "observation.images.front"
WIDTH, HEIGHT = 64, 48
JOINTS = 6
TASKS = ("Push the square around the table", "Stack the blocks")
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_A_FILE = 2500
"""Of 300 frames with two arms' worth of joints, some 40 kB each."""
EPISODES_A_VIDEO = 1000
METADATA_BUFFER_ROWS = 10
"""LeRobot's ``metadata_buffer_size``: rows of ``meta/episodes`` in a row group."""
_STATISTICS = ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99")


def episode_lengths(episodes: int) -> np.ndarray:
    """Frames of each: 20 to 60, the same for the same number."""
    return np.random.default_rng(7).integers(20, 61, episodes)


def write_many_episodes(root: Path, episodes: int, *, one_row_group: bool = False) -> Path:
    """Write the dataset to `root`; with `one_row_group` a file has but one, as other tools write them."""
    write_rows_and_metadata(root, episode_lengths(episodes), one_row_group=one_row_group)
    for file in range(-(-episodes // EPISODES_A_VIDEO)):
        path = root / VIDEO_PATH.format(video_key=CAMERA, chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no video")
    return root


@dataclass(frozen=True)
class FileSizes:
    """Episodes in a file of each kind."""

    data: int = EPISODES_A_FILE
    video: int = EPISODES_A_VIDEO


def write_rows_and_metadata(
    root: Path, lengths: np.ndarray, sizes: FileSizes = FileSizes(), *, one_row_group: bool = False
) -> None:
    """All but the video files, of episodes with so many frames; each video begins where the last one ends."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    _write_rows(root, starts, sizes.data, one_row_group=one_row_group)
    _write_meta(root, lengths, starts, sizes)


def _write_rows(root: Path, starts: np.ndarray, episodes_a_file: int, *, one_row_group: bool) -> None:
    lengths = np.diff(starts)
    total = int(starts[-1])
    episode = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.arange(total) - starts[episode]
    positions = np.random.default_rng(8).random(total * JOINTS, dtype=np.float32)
    joints = pa.FixedSizeListArray.from_arrays(pa.array(positions), JOINTS)
    table = pa.table(
        {
            "observation.state": joints,
            "action": joints,
            "timestamp": pa.array((frame / FPS).astype(np.float32)),
            "frame_index": pa.array(frame),
            "episode_index": pa.array(episode),
            "index": pa.array(np.arange(total)),
            "task_index": pa.array(episode % len(TASKS)),
        }
    )
    for file, first in enumerate(range(0, len(lengths), episodes_a_file)):
        path = root / DATA_PATH.format(chunk_index=0, file_index=file)
        path.parent.mkdir(parents=True, exist_ok=True)
        bounds = starts[first : first + episodes_a_file + 1].tolist()
        groups = [(bounds[0], bounds[-1])] if one_row_group else list(pairwise(bounds))
        with pq.ParquetWriter(path, table.schema) as writer:
            for start, end in groups:
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)


def _write_meta(root: Path, lengths: np.ndarray, starts: np.ndarray, sizes: FileSizes) -> None:
    episodes = len(lengths)
    number = np.arange(episodes)
    video = number // sizes.video
    from_seconds = (starts[:-1] - starts[video * sizes.video]) / FPS
    columns: dict[str, Any] = {
        "episode_index": number,
        "tasks": [[TASKS[index % len(TASKS)]] for index in range(episodes)],
        "length": lengths,
        "data/chunk_index": np.zeros(episodes, np.int64),
        "data/file_index": number // sizes.data,
        "dataset_from_index": starts[:-1],
        "dataset_to_index": starts[1:],
        f"videos/{CAMERA}/chunk_index": np.zeros(episodes, np.int64),
        f"videos/{CAMERA}/file_index": video,
        f"videos/{CAMERA}/from_timestamp": from_seconds,
        f"videos/{CAMERA}/to_timestamp": from_seconds + lengths / FPS,
    }
    features = _features()
    for name, feature in features.items():
        values = JOINTS if feature["shape"] == [JOINTS] else 1
        offsets = pa.array(np.arange(episodes + 1, dtype=np.int32) * values)
        for statistic in _STATISTICS:
            flat = pa.array(np.arange(episodes * values, dtype=np.float64))
            columns[f"stats/{name}/{statistic}"] = pa.ListArray.from_arrays(offsets, flat)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path, row_group_size=METADATA_BUFFER_ROWS)
    index_of_pandas = {b"pandas": json.dumps({"index_columns": ["task"], "columns": []}).encode()}
    tasks = pa.table({"task_index": range(len(TASKS)), "task": TASKS})
    pq.write_table(tasks.replace_schema_metadata(index_of_pandas), root / "meta/tasks.parquet")
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": episodes,
        "total_frames": int(starts[-1]),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    (root / "meta/stats.json").write_text("{}", encoding="utf-8")


def _features() -> Mapping[str, Mapping[str, Any]]:
    joints = {"dtype": "float32", "shape": [JOINTS], "names": [f"joint{number}" for number in range(JOINTS)]}
    axes = ["height", "width", "channels"]
    return {
        "observation.state": joints,
        "action": joints,
        CAMERA: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": axes},
        **{
            name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
            for name in ("timestamp", "frame_index", "episode_index", "index", "task_index")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("episodes", type=int)
    parser.add_argument("--one-row-group", action="store_true")
    arguments = parser.parse_args()
    write_many_episodes(arguments.folder, arguments.episodes, one_row_group=arguments.one_row_group)


if __name__ == "__main__":
    main()
