"""One data file whose rows hold pictures: decoded rows, and the hash of their bytes.

Runs inside a child process (see ``image_child``). Memory holds some rows of one column, and the page that
they lie in (pyarrow writes up to 1024 rows into one by default), however large the row groups are. Pictures
are RGB24: grey goes into three channels, transparency is dropped.
"""

import hashlib
import io
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.types import FRAME_PIXELS_LIMIT
from annotationrun_worker.video.child_server import Picture, RefusedError

BATCH_ROWS = 4
"""Read at once: some megabytes of pictures."""

BUFFER_BYTES = 1024 * 1024
"""Of the file, read at once; without a bound pyarrow takes in the column of a whole row group."""

FORMATS = ("PNG", "JPEG")
"""LeRobot writes PNG; JPEG comes with datasets that were converted."""

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Pillow's modes that become RGB without loss of depth; 16-bit pictures (depth, infrared) are none."""


class ImageFile:
    """An open data file and the place where reading stands; not safe for several threads."""

    def __init__(self, path: str, progress: Callable[[], None] = lambda: None) -> None:
        """``progress`` is called for each row that is read.

        Raises:
            RefusedError: it can't be read.
        """
        self._progress = progress
        try:
            self._file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise RefusedError("open", f"can't be read as parquet: {error}") from error
        metadata = self._file.metadata
        self._first_rows = [0]
        for group in range(metadata.num_row_groups):
            self._first_rows.append(self._first_rows[-1] + metadata.row_group(group).num_rows)
        self._reading = ("", -1)
        self._rows: Iterator[tuple[int, bytes | None, str | None]] = iter(())
        self._next_row = -1

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pictures_at(self, column: str, rows: Sequence[int], root: str) -> Iterator[Picture]:
        """Decode the pictures of ``rows`` (rising, counted from the start of the file).

        Raises:
            RefusedError: a row can't be read, or holds no picture.
        """
        for row in rows:
            content = self._content_at(column, row, root)
            yield _decoded(content, f"row {row} of the file")

    def sha256(self, column: str, first_row: int, row_count: int, root: str) -> str:
        """SHA-256 (hex) over the coded pictures of an episode, in row order; nothing is decoded.

        Of each picture its size in bytes (uint64, little-endian) and its bytes are hashed.

        Raises:
            RefusedError: a row can't be read.
        """
        digest = hashlib.sha256()
        for row in range(first_row, first_row + row_count):
            content = self._content_at(column, row, root)
            digest.update(struct.pack("<Q", len(content)))
            digest.update(content)
        return digest.hexdigest()

    def _content_at(self, column: str, row: int, root: str) -> bytes:
        """The bytes of one picture; rows that rise are read in one go."""
        if not 0 <= row < self._first_rows[-1]:
            raise RefusedError("no_frame", f"no row {row}, the file has {self._first_rows[-1]}")
        group = next(g for g, first in enumerate(self._first_rows[1:]) if row < first)
        if (column, group) != self._reading or not 0 <= self._next_row <= row:
            self._reading, self._next_row = (column, group), self._first_rows[group]
            self._rows = self._read(column, group)
        try:
            for number, content, path in self._rows:
                self._progress()
                self._next_row = number + 1
                if number == row:
                    return content if content is not None else _content_of_file(path, root, row)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise RefusedError("read", f"reading row {row} failed: {error}") from error
        finally:
            if self._next_row != row + 1:
                self._next_row = -1  # reading failed half way: start anew next time
        raise RefusedError("read", f"the file ends before row {row}")

    def _read(self, column: str, group: int) -> Iterator[tuple[int, bytes | None, str | None]]:
        """(row, bytes, path) of the rows from the start of the row group to the end of it."""
        row = self._first_rows[group]
        batches = self._file.iter_batches(
            batch_size=BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False
        )
        for batch in batches:
            pictures = batch.column(column)
            names = [part.name for part in pictures.type]
            contents = pictures.field("bytes")
            paths = pictures.field("path") if "path" in names else pa.nulls(len(pictures), pa.string())
            for content, path in zip(contents, paths, strict=True):
                yield row, content.as_py(), path.as_py()
                row += 1


def _content_of_file(path: str | None, root: str, row: int) -> bytes:
    """The picture that a row names instead of holding it; it must lie in the dataset's folder."""
    if not path:
        raise RefusedError("decode", f"row {row} of the file holds neither the bytes of a picture nor a path")
    folder = Path(root).resolve()
    place = folder / path
    if not place.resolve().is_relative_to(folder):
        raise RefusedError(
            "open",
            f"row {row} of the file holds no picture but the path {path!r}, which lies outside of the "
            "dataset's folder; refused (write the pictures into the rows)",
        )
    try:
        return place.read_bytes()
    except OSError as error:
        raise RefusedError(
            "open",
            f"row {row} of the file holds no picture but the path {path!r}, and {str(place)!r} can't be "
            f"read: {error.strerror}",
        ) from error


def _decoded(content: bytes, place: str) -> Picture:
    try:
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            if width * height > FRAME_PIXELS_LIMIT:
                raise RefusedError(
                    "decode", f"{place}: a picture of {width} x {height} pixels is out of bounds"
                )
            if image.mode not in EIGHT_BIT_MODES:
                raise RefusedError(
                    "decode",
                    f"{place}: a picture of Pillow's mode {image.mode!r}, expected 8 bits a channel, RGB or "
                    "grey",
                )
            return Picture(place, width, height, np.asarray(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise RefusedError(
            "decode",
            f"{place}: not a picture that can be decoded ({len(content)} bytes, expected PNG or JPEG): "
            f"{error}",
        ) from error
