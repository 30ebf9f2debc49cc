"""A LeRobot v3.0 dataset whose cameras are stored as PNG in the rows, each frame carrying the frame code.

It shares no code with the reader: the files are written with pyarrow and Pillow.
"""

import io
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from tests.support.video_assets import write_pictures

from annotationrun_worker.demo import frame_code

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
FPS = 15
LENGTHS = (40, 60, 25)
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PictureOf = Callable[[int, int, int], dict[str, Any] | None]
"""From (index, camera, episode) to what the row holds: ``{"bytes": .., "path": ..}``."""


def png(index: int, camera: int, episode: int) -> bytes:
    """The frame's picture, as PNG."""
    return encoded(PIL.Image.fromarray(frame_code.render(index, camera, episode)), "PNG")


def encoded(picture: PIL.Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_in_row(index: int, camera: int, episode: int) -> dict[str, Any]:
    """As LeRobot writes it: the bytes, and the name that the file had."""
    return {"bytes": png(index, camera, episode), "path": f"frame-{index:06d}.png"}


def write_image_dataset(
    root: Path,
    cameras: dict[str, str],
    *,
    lengths: Sequence[int] = LENGTHS,
    one_row_group: bool = False,
    picture_of: PictureOf = png_in_row,
) -> Path:
    """Write a dataset; `cameras` maps names to `image` or `video`, in the order of `info.json`."""
    starts = np.cumsum([0, *lengths]).tolist()
    rows = [(episode, frame) for episode, length in enumerate(lengths) for frame in range(length)]
    columns: dict[str, pa.Array] = {"action": pa.array([[0.5, 0.25]] * len(rows), pa.list_(pa.float32(), 2))}
    for number, (name, kind) in enumerate(cameras.items()):
        if kind == "image":
            held = [picture_of(index, number, episode) for index, (episode, _) in enumerate(rows)]
            columns[name] = pa.array(held, IMAGE)
        else:
            pictures = (frame_code.render(i, number, episode) for i, (episode, _) in enumerate(rows))
            path = root / VIDEO_PATH.format(video_key=name, chunk_index=0, file_index=0)
            write_pictures(path, pictures, [index / FPS for index in range(len(rows))])
    columns |= {
        "timestamp": pa.array(np.array([frame / FPS for _, frame in rows], np.float32)),
        "frame_index": pa.array([frame for _, frame in rows], pa.int64()),
        "episode_index": pa.array([episode for episode, _ in rows], pa.int64()),
        "index": pa.array(range(len(rows)), pa.int64()),
        "task_index": pa.array([0] * len(rows), pa.int64()),
    }
    table = pa.table(columns)
    path = root / DATA_PATH.format(chunk_index=0, file_index=0)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, table.schema) as writer:
        pieces = [(0, len(rows))] if one_row_group else list(itertools.pairwise(starts))
        for start, stop in pieces:
            writer.write_table(table.slice(start, stop - start))
    _write_meta(root, cameras, lengths, starts)
    return root


def _write_meta(root: Path, cameras: dict[str, str], lengths: Sequence[int], starts: list[int]) -> None:
    episodes = []
    for episode, length in enumerate(lengths):
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": ["Push the square around the table"],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": starts[episode],
            "dataset_to_index": starts[episode + 1],
        }
        for name in (name for name, kind in cameras.items() if kind == "video"):
            row[f"videos/{name}/chunk_index"] = row[f"videos/{name}/file_index"] = 0
            row[f"videos/{name}/from_timestamp"] = starts[episode] / FPS
            row[f"videos/{name}/to_timestamp"] = starts[episode + 1] / FPS
        episodes.append(row)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), path)
    index_of_pandas = {b"pandas": json.dumps({"index_columns": ["task"], "columns": []}).encode()}
    tasks = pa.table({"task_index": [0], "task": ["Push the square around the table"]})
    pq.write_table(tasks.replace_schema_metadata(index_of_pandas), root / "meta/tasks.parquet")
    (root / "meta/stats.json").write_text("{}", encoding="utf-8")
    features: dict[str, Any] = {"action": {"dtype": "float32", "shape": [2], "names": ["a", "b"]}}
    for name, kind in cameras.items():
        names = ["height", "width", "channels"]
        features[name] = {"dtype": kind, "shape": [frame_code.H, frame_code.W, 3], "names": names}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    info = {
        "codebase_version": "v3.0",
        "fps": FPS,
        "total_episodes": len(lengths),
        "total_frames": starts[-1],
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
