"""Cameras that are stored as pictures in the rows: which rows of which file are an episode's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, ImageSpan
from annotationrun_worker.errors import DatasetError


def find_image_spans(
    root: Path, data_path: Path, episode: EpisodeIndex, cameras: Sequence[CameraKey]
) -> Mapping[CameraKey, ImageSpan]:
    """Where the pictures of ``episode`` lie in ``data_path``, by camera; no picture is read.

    Raises:
        DatasetError: the file can't be read, a camera has no column of its own or one of another type, or
            the episode's rows are none or lie apart.
    """
    if not cameras:
        return {}
    try:
        with pq.ParquetFile(data_path) as file:
            for camera in cameras:
                _check_column(file.schema_arrow, camera, data_path)
            of_rows = file.read(columns=["episode_index"]).column("episode_index").to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(f"{data_path} can't be read as parquet: {error}") from error
    rows = np.flatnonzero(of_rows == int(episode))
    if not len(rows) or rows[-1] - rows[0] + 1 != len(rows):
        raise DatasetError(
            f"{data_path}: the rows of episode {episode} "
            + ("lie apart in the file; expected one block" if len(rows) else "are missing")
        )
    return {
        camera: ImageSpan(data_path, str(camera), int(rows[0]), len(rows), root.absolute())
        for camera in cameras
    }


def _check_column(schema: pa.Schema, camera: CameraKey, path: Path) -> None:
    if camera not in schema.names:
        raise DatasetError(
            f"{path}: no column {camera!r}, but meta/info.json says that its pictures are stored in the rows "
            "(dtype 'image'); is the download complete?"
        )
    kind = schema.field(camera).type
    parts = {part.name: part.type for part in kind} if pa.types.is_struct(kind) else {}
    content = parts.get("bytes")
    if content is None or not (pa.types.is_binary(content) or pa.types.is_large_binary(content)):
        raise DatasetError(
            f"{path}: the column {camera!r} is of type {kind}, expected struct<bytes: binary, path: string>"
        )
