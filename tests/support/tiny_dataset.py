"""A LeRobot v3.0 dataset of three episodes, two seconds each, in two data files and one video a camera.

It shares no code with the reader. Frame ``n`` of a video is a picture whose left part is ``n`` pixels wide.
"""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tests.support.video_assets import write_pictures

WIDTH, HEIGHT, FPS = 64, 48, 10
LENGTHS = (20, 20, 20)
DATA_FILES = ((0, 1), (2,))
"""The episodes of each data file."""
TASK = "put the red block into the bowl"
TOP, SIDE = "observation.images.top", "observation.images.side"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"


def rows_path(file: int) -> str:
    """Path of a data file in the dataset."""
    return DATA_PATH.format(chunk_index=0, file_index=file)


def video_path(camera: str = TOP) -> str:
    """Path of a camera's video in the dataset."""
    return VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=0)


def write_tiny_dataset(root: Path, cameras: Sequence[str] = (TOP,)) -> Path:
    """Write it to `root`, which is not there yet."""
    starts = np.cumsum([0, *LENGTHS]).tolist()
    for camera in cameras:
        times = [frame / FPS for frame in range(starts[-1])]
        write_pictures(root / video_path(camera), map(picture, range(starts[-1])), times)
    for file, episodes in enumerate(DATA_FILES):
        path = root / rows_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        tables = [_rows(episode, starts[episode]) for episode in episodes]
        pq.write_table(pa.concat_tables(tables), path, row_group_size=LENGTHS[0])
    (root / EPISODES).parent.mkdir(parents=True)
    pq.write_table(_episodes(cameras, starts), root / EPISODES)
    tasks = pa.table({"task_index": [0], "task": [TASK]})
    pandas = {b"pandas": json.dumps({"index_columns": ["task"], "columns": []}).encode()}
    pq.write_table(tasks.replace_schema_metadata(pandas), root / TASKS)
    (root / "meta/stats.json").write_text("{}", encoding="utf-8")
    (root / "meta/info.json").write_text(json.dumps(_info(cameras, starts[-1]), indent=4), encoding="utf-8")
    return root


def picture(frame: int) -> NDArray[np.uint8]:
    """The frame of a video: uint8 of shape (height, width, 3), RGB."""
    drawn = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    drawn[:, :frame] = 200
    return drawn


def edit_table(path: Path, edit: Callable[[pa.Table], pa.Table]) -> None:
    """Write a parquet file anew, as `edit` makes it."""
    pq.write_table(edit(pq.read_table(path)), path)


def with_column(
    table: pa.Table, name: str, values: Sequence[Any], kind: pa.DataType | None = None
) -> pa.Table:
    """The table with other values in a column, or of another type."""
    place = table.column_names.index(name)
    return table.set_column(place, name, pa.array(values, kind or table.schema.field(name).type))


def _rows(episode: int, start: int) -> pa.Table:
    length = LENGTHS[episode]
    joints = pa.array([[frame / length, episode] for frame in range(length)], pa.list_(pa.float32()))
    return pa.table(
        {
            "action": joints,
            "observation.state": joints,
            "timestamp": pa.array([frame / FPS for frame in range(length)], pa.float32()),
            "frame_index": pa.array(range(length), pa.int64()),
            "episode_index": pa.array([episode] * length, pa.int64()),
            "index": pa.array(range(start, start + length), pa.int64()),
            "task_index": pa.array([0] * length, pa.int64()),
        }
    )


def _episodes(cameras: Sequence[str], starts: list[int]) -> pa.Table:
    file_of = {episode: file for file, episodes in enumerate(DATA_FILES) for episode in episodes}
    rows = []
    for episode, (start, end) in enumerate(pairwise(starts)):
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [TASK],
            "length": end - start,
            "data/chunk_index": 0,
            "data/file_index": file_of[episode],
            "dataset_from_index": start,
            "dataset_to_index": end,
        }
        for camera in cameras:
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": 0}
            row |= {
                f"videos/{camera}/from_timestamp": start / FPS,
                f"videos/{camera}/to_timestamp": end / FPS,
            }
        rows.append(row)
    return pa.Table.from_pylist(rows)


def _info(cameras: Sequence[str], total_frames: int) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [2], "names": ["shoulder.pos", "gripper.pos"]}
    names = ["height", "width", "channels"]
    return {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": len(LENGTHS),
        "total_frames": total_frames,
        "total_tasks": 1,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            "action": vector,
            "observation.state": vector,
            **{camera: {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": names} for camera in cameras},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{
                name: {"dtype": "int64", "shape": [1], "names": None}
                for name in ("frame_index", "episode_index", "index", "task_index")
            },
        },
    }
