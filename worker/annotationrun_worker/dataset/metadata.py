"""What ``meta/`` says: ``info.json``, read and checked, and the tasks that the rows name."""

import json
import math
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from annotationrun_worker.dataset.layout import (
    DATA_TEMPLATE,
    INFO_PATH,
    VIDEO_TEMPLATE,
    check_readable,
    check_template,
)
from annotationrun_worker.dataset.parquet_files import READ_ERRORS, fitting_rows, open_parquet
from annotationrun_worker.dataset.types import FRAME_PIXELS_LIMIT, FRAME_SIDES_LIMIT, CameraKey, Features
from annotationrun_worker.errors import DatasetError

INFO_BYTES_LIMIT = 16 * 1024 * 1024
"""A real info.json has some kilobytes; more than this is not one."""

FPS_LIMITS = (1e-3, 1e5)
"""Frames per second: from one in a quarter of an hour to a fast sensor's; beyond, no time can be told."""

_SHORT = reprlib.Repr()
"""Shows values of somebody else's file: not their end, nor their depths."""
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120

_REQUIRED_KEYS = ("codebase_version", "fps", "features", DATA_TEMPLATE)


def read_info(root: Path) -> dict[str, Any]:
    """Read ``meta/info.json`` of the dataset at ``root``: the JSON as it stands, unknown keys kept.

    Raises:
        DatasetError: no such file, not JSON, not LeRobot v3.x, a key is missing, a frame rate that is none,
            a dtype that is no text, or a path template is unsafe.
    """
    path = root / INFO_PATH
    info = _read_json_object(path)
    _check_version(info.get("codebase_version"), path)
    missing = [key for key in _REQUIRED_KEYS if key not in info]
    if missing:
        raise DatasetError(f"{path}: the keys {missing} are missing; LeRobot v3.0 writes them")
    _check_fps(info["fps"], path)
    features = info["features"]
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise DatasetError(f"{path}: 'features' must map each name to an object with dtype and shape")
    for name, feature in features.items():
        if not isinstance(feature.get("dtype", ""), str):
            raise DatasetError(
                f"{path}: feature {_SHORT.repr(name)} has dtype {_SHORT.repr(feature['dtype'])}, expected "
                "text such as 'float32' or 'video'"
            )
    check_template(DATA_TEMPLATE, info[DATA_TEMPLATE])
    if any(feature.get("dtype") == "video" for feature in features.values()):
        check_template(VIDEO_TEMPLATE, info.get(VIDEO_TEMPLATE))
    return info


def read_features(info: Mapping[str, Any]) -> Features:
    """Take frame rate and cameras from ``info`` (see ``read_info``).

    Cameras are the features of dtype ``video`` and ``image`` in the order of the file, depth streams left
    out.

    Raises:
        DatasetError: a camera's shape can't be understood.
    """
    found = {
        CameraKey(name): feature
        for name, feature in info["features"].items()
        if feature.get("dtype") in {"video", "image"} and not _is_depth(feature)
    }
    return Features(
        fps=float(info["fps"]),
        cameras=tuple(found),
        camera_sizes={camera: _image_size(camera, feature) for camera, feature in found.items()},
        image_cameras=frozenset(c for c, feature in found.items() if feature["dtype"] == "image"),
    )


def _read_json_object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(INFO_BYTES_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"{path} does not exist; expected the folder of a LeRobot v3.0 dataset (meta/, data/, videos/)"
        ) from error
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    if len(text) > INFO_BYTES_LIMIT:
        raise DatasetError(f"{path} is larger than {INFO_BYTES_LIMIT} bytes; that is no info.json")
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error
    if not isinstance(info, dict):
        raise DatasetError(f"{path} holds {type(info).__name__}, expected a JSON object")
    return info


def _check_version(version: object, path: Path) -> None:
    if isinstance(version, str) and (version == "v3" or version.startswith("v3.")):
        return
    if isinstance(version, str) and version.startswith("v2."):
        hint = "convert it: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=<dataset>" + (
            "" if version == "v2.1" else " (versions before v2.1 go to v2.1 first)"
        )
    else:
        hint = "this version reads LeRobot v3.x datasets only"
    raise DatasetError(f"{path}: codebase_version is {_SHORT.repr(version)}, expected 'v3.0'; {hint}")


def _check_fps(fps: object, path: Path) -> None:
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf:
        raise DatasetError(
            f"{path}: 'fps' is {_SHORT.repr(fps)}, expected frames per second as a number above 0"
        )
    lowest, highest = FPS_LIMITS
    if not lowest <= fps <= highest:
        raise DatasetError(
            f"{path}: 'fps' is {_SHORT.repr(fps)}, expected frames per second, from {lowest:g} to {highest:g}"
        )


def _is_depth(feature: Mapping[str, Any]) -> bool:
    info = feature.get("info")
    older = feature.get("video_info")
    info = info if isinstance(info, dict) else {}
    older = older if isinstance(older, dict) else {}
    return any((info.get("is_depth_map"), info.get("video.is_depth_map"), older.get("video.is_depth_map")))


def _image_size(name: str, feature: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height): by the names of the axes, else by where the 1 or 3 channels stand."""
    shape, names = feature.get("shape"), feature.get("names")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise DatasetError(
            f"meta/info.json: camera {name!r} has shape {_SHORT.repr(shape)}, expected three positive "
            "numbers: height, width, channels"
        )
    width, height = _width_and_height(shape, names)
    if width * height > FRAME_PIXELS_LIMIT:
        raise DatasetError(
            f"meta/info.json: camera {name!r} has frames of {_SHORT.repr(width)} x {_SHORT.repr(height)} "
            f"pixels, expected at most {FRAME_PIXELS_LIMIT} in all; remove the feature, or make its frames "
            "smaller"
        )
    if max(width, height) > FRAME_SIDES_LIMIT * min(width, height):
        raise DatasetError(
            f"meta/info.json: camera {name!r} has frames of {width} x {height} pixels, expected a longer "
            f"side of at most {FRAME_SIDES_LIMIT} times the shorter one; remove the feature, if it is no "
            "camera"
        )
    return width, height


def _width_and_height(shape: list[int], names: object) -> tuple[int, int]:
    if isinstance(names, list) and len(names) == 3 and "height" in names and "width" in names:
        return shape[names.index("width")], shape[names.index("height")]
    if shape[0] in {1, 3} and shape[2] not in {1, 3}:
        return shape[2], shape[1]
    return shape[1], shape[0]


TASKS_PATH = PurePosixPath("meta/tasks.parquet")

TASK_CHARACTERS = 10_000
"""Of one: it stands in every prompt, and people write a sentence or two."""
TASKS_LIMIT = 1_000_000
"""Of a dataset."""

_BATCH_ROWS = 1000
_INDEX_COLUMN = "task_index"
_TEXT_COLUMN = "task"
_UNNAMED_INDEX = "__index_level_0__"
"""What pandas calls an index without a name when it writes one."""


def read_tasks(root: Path) -> Mapping[int, str]:
    """The text of each task of the dataset at ``root``, by ``task_index``.

    The texts are the index of the data frame that LeRobot writes, or a column named ``task``.

    Raises:
        DatasetError: the file is missing or can't be read, has no such columns, a null, one index twice, or a
            text that is no task but a book.
    """
    path = root / TASKS_PATH
    check_readable(path, "the tasks, without which LeRobot can't load the dataset")
    indices: list[int | None] = []
    texts: list[str | None] = []
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
            text_column = _text_column(schema)
            if _INDEX_COLUMN not in schema.names or text_column is None:
                raise DatasetError(
                    f"{path} has the columns {schema.names}, expected {_INDEX_COLUMN!r} and {_TEXT_COLUMN!r}"
                )
            if file.metadata.num_rows > TASKS_LIMIT:
                raise DatasetError(
                    f"{path} has {file.metadata.num_rows} tasks, expected at most {TASKS_LIMIT}"
                )
            columns = [_INDEX_COLUMN, text_column]
            for group in range(file.num_row_groups):
                fitting = fitting_rows(file, group, columns, _BATCH_ROWS, path)
                for batch in file.iter_batches(
                    fitting, row_groups=[group], columns=columns, use_threads=False
                ):
                    found = batch.column(text_column).cast(pa.string())
                    check_task_lengths(found, path)
                    indices += batch.column(_INDEX_COLUMN).cast(pa.int64()).to_pylist()
                    texts += found.to_pylist()
    except READ_ERRORS as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error
    named = zip(indices, texts, strict=True)
    tasks = {index: text for index, text in named if index is not None and text is not None}
    if None in indices or None in texts:
        raise DatasetError(f"{path} has a row without {_INDEX_COLUMN!r} or {_TEXT_COLUMN!r}")
    if len(tasks) < len(indices):
        raise DatasetError(f"{path} names a {_INDEX_COLUMN!r} twice; expected one text for each")
    return tasks


def check_task_lengths(texts: pa.Array, path: Path) -> None:
    """See that no text, and no list of texts, is longer than a task may be.

    Raises:
        DatasetError: one is.
    """
    if pa.types.is_list(texts.type) or pa.types.is_large_list(texts.type):
        counts = pc.list_value_length(texts)
        if (pc.max(counts).as_py() or 0) > TASK_CHARACTERS:
            raise DatasetError(f"{path} lists more than {TASK_CHARACTERS} tasks of an episode")
        texts = texts.flatten()
    if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
        return
    longest = pc.max(pc.utf8_length(texts)).as_py() or 0
    if longest > TASK_CHARACTERS:
        raise DatasetError(
            f"{path} has a task of {longest} characters, expected at most {TASK_CHARACTERS}; shorten it, as "
            "every prompt names it"
        )


def _text_column(schema: pa.Schema) -> str | None:
    """The column of the texts: by its name, else the index that pandas notes in the file's metadata."""
    if _TEXT_COLUMN in schema.names:
        return _TEXT_COLUMN
    try:
        named = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    except (KeyError, ValueError, TypeError, RecursionError):
        named = []
    named = named if isinstance(named, list) else []
    return next((name for name in (*named, _UNNAMED_INDEX) if name in schema.names), None)
