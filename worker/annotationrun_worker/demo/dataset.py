"""The demo dataset, written as LeRobot v3.0 with its statistics.

Statistics of a dataset as LeRobot v3.0 stores them, per episode and over all episodes.

https://huggingface.co/docs/lerobot/lerobot-dataset-v3

Writes the demo dataset: LeRobot v3.0, two cameras in AV1, several episodes per parquet and mp4 file.

The files are laid out as LeRobot's own writer lays them out (format: https://huggingface.co/docs/lerobot/
lerobot-dataset-v3), but sooner cut, so that a small dataset has more than one file of each kind.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotationrun_worker.demo.scene import (
    CAMERAS,
    FPS,
    HEIGHT,
    WIDTH,
    DemoEpisode,
    draw_frame,
    make_episodes,
    world_state,
)

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)

Stats = dict[str, NDArray[Any]]
"""``min``, ``max``, ``mean``, ``std``, ``q01`` ... ``q99`` in float64; ``count`` is one whole number."""


def column_stats(values: NDArray[np.generic]) -> Stats:
    """Statistics of a column, shape (rows,) or (rows, n); each statistic has shape (1,) or (n,)."""
    table = values.astype(np.float64).reshape(len(values), -1)
    stats = {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0),
        "std": table.std(0),
        "count": np.array([len(table)]),
    }
    quantiles = np.quantile(table, QUANTILES, axis=0)
    return stats | {f"q{q * 100:02.0f}": row for q, row in zip(QUANTILES, quantiles, strict=True)}


def picture_stats(pictures: Sequence[NDArray[np.uint8]]) -> Stats:
    """Statistics of sampled frames (height, width, 3) by colour, in 0..1: each has shape (3, 1, 1)."""
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures])
    stats = column_stats(pixels / np.float64(255))
    shaped = {name: value.reshape(3, 1, 1) for name, value in stats.items() if name != "count"}
    return shaped | {"count": np.array([len(pictures)])}


EPISODES_PER_DATA_FILE = 2
EPISODES_PER_VIDEO_FILE = 3
"""Other than in the data files, so that nobody takes the one for the other."""
ENCODER: Final[Mapping[str, str]] = {"g": "2", "crf": "30", "preset": "8", "svtav1-params": "lp=1"}
"""SVT-AV1 with a key frame every second frame, as LeRobot has it; one thread each, as two encoders run."""
_STATE_NAMES = ("gripper.x", "gripper.height", "gripper.opening", "gripper.closed")
_OPENING = {"wide": 1.0, "ajar": 0.5, "closed": 0.0}
_STATS_EVERY_FRAMES = 10
_STATS_EVERY_PIXELS = 4
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"


def make_demo_dataset(folder: Path, *, episodes: int = 4, seed: int = 7) -> None:
    """Write a dataset of ``episodes`` episodes of 12 to 20 s into ``folder``, which must be empty or new.

    Raises:
        FileExistsError: there is something in ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{str(folder)!r} is not empty; name a new folder for the demo dataset")
    script = make_episodes(episodes, seed)
    tasks = list(dict.fromkeys(episode.task for episode in script))
    columns = [_columns(episode, tasks.index(episode.task)) for episode in script]
    # libsvtav1 releases the interpreter's lock: the two cameras are encoded side by side
    with ThreadPoolExecutor(len(CAMERAS)) as pool:
        samples = list(pool.map(lambda camera: _write_videos(folder, script, camera), CAMERAS))
    _write_data(folder, columns)
    _write_tasks(folder, tasks)
    stats = [
        {name: column_stats(values) for name, values in table.items()}
        | {camera: picture_stats(seen[n]) for camera, seen in zip(CAMERAS, samples, strict=True)}
        for n, table in enumerate(columns)
    ]
    _write_episodes(folder, script, stats)
    total = {name: column_stats(np.concatenate([table[name] for table in columns])) for name in columns[0]}
    for camera, seen in zip(CAMERAS, samples, strict=True):
        total[camera] = picture_stats([picture for episode in seen for picture in episode])
    lists = {name: {key: value.tolist() for key, value in each.items()} for name, each in total.items()}
    _write_json(folder / "meta/stats.json", lists)
    _write_json(folder / "meta/info.json", _info(script, len(tasks)))


def _columns(episode: DemoEpisode, task_index: int) -> dict[str, NDArray[Any]]:
    """The columns of one episode's rows, in the order of the file; the action is the next frame's state."""
    frames = np.arange(episode.frame_count)
    states = np.array([_state(episode, int(frame)) for frame in frames], np.float32)
    return {
        "observation.state": states,
        "action": np.concatenate([states[1:], states[-1:]]),
        "timestamp": (frames / FPS).astype(np.float32),
        "frame_index": frames,
        "episode_index": np.full_like(frames, episode.index),
        "index": episode.from_index + frames,
        "task_index": np.full_like(frames, task_index),
    }


def _state(episode: DemoEpisode, frame: int) -> tuple[float, float, float, float]:
    world = world_state(episode, frame)
    closed = float(world.fingers == "closed")
    return world.gripper_x / WIDTH, 1 - world.gripper_y / HEIGHT, _OPENING[world.fingers], closed


def _write_videos(folder: Path, script: Sequence[DemoEpisode], camera: str) -> list[list[NDArray[np.uint8]]]:
    """Encode all episodes of a camera; returns thinned-out frames for statistics, by episode."""
    # the encoder reads this when it opens; without it, it reports every setting on stderr
    os.environ.setdefault("SVT_LOG", "1")
    samples: list[list[NDArray[np.uint8]]] = []
    for start in range(0, len(script), EPISODES_PER_VIDEO_FILE):
        file_index = start // EPISODES_PER_VIDEO_FILE
        path = folder / _VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=file_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        samples += _write_video(path, script[start : start + EPISODES_PER_VIDEO_FILE], camera)
    return samples


def _write_video(path: Path, script: Sequence[DemoEpisode], camera: str) -> list[list[NDArray[np.uint8]]]:
    samples: list[list[NDArray[np.uint8]]] = []
    pts = 0
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libsvtav1", rate=FPS, options=dict(ENCODER))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for episode in script:
            sampled: list[NDArray[np.uint8]] = []
            for number in range(episode.frame_count):
                picture = draw_frame(episode, number, camera)
                if number % _STATS_EVERY_FRAMES == 0:
                    sampled.append(picture[::_STATS_EVERY_PIXELS, ::_STATS_EVERY_PIXELS].copy())
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = pts
                pts += 1
                container.mux(stream.encode(frame))
            samples.append(sampled)
        container.mux(stream.encode(None))
    return samples


def _write_data(folder: Path, columns: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    for start in range(0, len(columns), EPISODES_PER_DATA_FILE):
        path = folder / _DATA_PATH.format(chunk_index=0, file_index=start // EPISODES_PER_DATA_FILE)
        tables = [_table(each) for each in columns[start : start + EPISODES_PER_DATA_FILE]]
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, tables[0].schema, compression="snappy") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=table.num_rows)


def _table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    return pa.table({name: _array(values) for name, values in columns.items()})


def _array(values: NDArray[Any]) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _write_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """``meta/tasks.parquet``; LeRobot reads it with pandas and takes the tasks from the index."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": list(tasks)})
    kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text}],
        "columns": [
            {
                "name": name,
                "field_name": name,
                "pandas_type": pandas_type,
                "numpy_type": numpy_type,
                "metadata": None,
            }
            for name, pandas_type, numpy_type in kinds
        ],
        "pandas_version": "2.3.3",
    }
    path = folder / "meta/tasks.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def _write_episodes(
    folder: Path, script: Sequence[DemoEpisode], stats: Sequence[Mapping[str, Stats]]
) -> None:
    """``meta/episodes``: where each episode lies in the files, and its statistics."""
    rows = [
        _episode_row(script, episode)
        | {f"stats/{name}/{key}": value.tolist() for name, s in each.items() for key, value in s.items()}
        | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for episode, each in zip(script, stats, strict=True)
    ]
    path = folder / _EPISODES_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _episode_row(script: Sequence[DemoEpisode], episode: DemoEpisode) -> dict[str, Any]:
    row = {
        "episode_index": episode.index,
        "tasks": [episode.task],
        "length": episode.frame_count,
        "data/chunk_index": 0,
        "data/file_index": episode.index // EPISODES_PER_DATA_FILE,
        "dataset_from_index": episode.from_index,
        "dataset_to_index": episode.from_index + episode.frame_count,
    }
    file_index = episode.index // EPISODES_PER_VIDEO_FILE
    first = script[file_index * EPISODES_PER_VIDEO_FILE]
    frames_before = episode.from_index - first.from_index
    for camera in CAMERAS:
        row |= {
            f"videos/{camera}/chunk_index": 0,
            f"videos/{camera}/file_index": file_index,
            f"videos/{camera}/from_timestamp": frames_before / FPS,
            f"videos/{camera}/to_timestamp": (frames_before + episode.frame_count) / FPS,
        }
    return row


def _info(script: Sequence[DemoEpisode], task_count: int) -> dict[str, Any]:
    """``meta/info.json``."""
    vector = {"dtype": "float32", "shape": [len(_STATE_NAMES)], "names": list(_STATE_NAMES)}
    numbers = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
    scalars = {"timestamp": "float32", **numbers}
    return {
        "codebase_version": "v3.0",
        "fps": FPS,
        "features": {
            "observation.state": vector,
            "action": vector,
            **{camera: _camera_feature() for camera in CAMERAS},
            **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()},
        },
        "total_episodes": len(script),
        "total_frames": sum(episode.frame_count for episode in script),
        "total_tasks": task_count,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH,
        "robot_type": "demo_gripper",
        "splits": {"train": f"0:{len(script)}"},
    }


def _camera_feature() -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": [HEIGHT, WIDTH, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": HEIGHT,
            "video.width": WIDTH,
            "video.codec": "av1",
            "video.pix_fmt": "yuv420p",
            "video.fps": FPS,
            "video.channels": 3,
            "has_audio": False,
            "video.g": int(ENCODER["g"]),
            "video.crf": int(ENCODER["crf"]),
            "video.preset": int(ENCODER["preset"]),
            "is_depth_map": False,
        },
    }


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
