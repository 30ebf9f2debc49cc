"""Cameras that are stored as pictures in the rows: which rows of which file are an episode's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from annotationrun_worker.dataset.data_rows import DataFileRows
from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, ImageSpan
from annotationrun_worker.errors import DatasetError


def find_image_spans(
    root: Path, rows: DataFileRows, episode: EpisodeIndex, cameras: Sequence[CameraKey]
) -> Mapping[CameraKey, ImageSpan]:
    """Where the pictures of ``episode`` lie in the file of ``rows``, by camera; no picture is read.

    Raises:
        DatasetError: a camera has no column of its own or one of another type, or the episode's rows are
            none or lie apart.
    """
    if not cameras:
        return {}
    for camera in cameras:
        _check_column(rows.schema, camera, rows.path)
    start, end = rows.block_of(episode)
    return {
        camera: ImageSpan(rows.path, str(camera), start, end - start, root.absolute()) for camera in cameras
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
