"""The rows of data files: which are an episode's, and where its stored pictures lie.

Which rows of a data file are an episode's, and when its frames were taken; each file is read once.

A data file holds up to some ten thousand episodes, and they are asked for one by one, in any order. Its
footer is as long as it has episodes: to parse that for each of them alone would take half an hour.

Cameras that are stored as pictures in the rows: which rows of which file are an episode's.
"""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.dataset.parquet_files import open_parquet, return_freed_memory
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, ImageSpan
from annotationrun_worker.errors import DatasetError

Block = tuple[int, int]
"""Rows of a file: [first, end)."""

ROW_COLUMNS: Final = ("timestamp", "frame_index", "episode_index", "task_index")

CACHE_BYTES: Final = 128 * 1024**2
"""Of files read: 32 million frames, 300 hours at 30 frames a second."""

_BLOCK_BYTES: Final = 300
"""About what a block of rows takes in ``DataFileRows.blocks``."""
_TASKS_BYTES: Final = 150
"""About what an episode takes in ``DataFileRows.tasks``."""


@dataclass(frozen=True, slots=True, eq=False)
class DataFileRows:
    """The rows of a data file, by episode; its other columns are not read."""

    path: Path
    schema: pa.Schema
    timestamps_seconds: NDArray[np.float32]
    """Shape (rows,), float32: the column ``timestamp``, cast as LeRobot does; a null is NaN here."""
    blocks: Mapping[int, Sequence[Block]]
    """By episode, [first row, end): one block in a sound file."""
    null_rows: NDArray[np.int64]
    """Rows without a timestamp or frame_index, rising."""
    misnumbered_rows: NDArray[np.int64]
    """Rows whose frame_index is not the number of the frame in its episode, rising."""
    wrong_numbers: NDArray[np.int64]
    """The frame_index of each of them."""
    tasks: Mapping[int, tuple[int, ...]]
    """By episode, the task_index of its rows, each once, in the order of the rows; a null is -1 here."""

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        blocks = sum(map(len, self.blocks.values()))
        return self.timestamps_seconds.nbytes + _BLOCK_BYTES * blocks + _TASKS_BYTES * len(self.tasks)

    def timestamps_of(self, episode: EpisodeIndex, length: int) -> NDArray[np.float32]:
        """The timestamps of the ``length`` frames of ``episode``, which can't be written to.

        Raises:
            DatasetError: another number of rows, rows without values, frame_index not 0..n-1, or timestamps
                that are not finite or not strictly increasing.
        """
        where = f"episode {episode} in {str(self.path)!r}"
        blocks = self.blocks.get(int(episode), ())
        row_count = sum(end - start for start, end in blocks)
        if row_count != length:
            raise DatasetError(f"{where}: {row_count} rows, but meta/episodes says {length}")
        nulls = sum(len(_within(self.null_rows, block)) for block in blocks)
        if nulls:
            raise DatasetError(f"{where}: {nulls} rows without a timestamp or frame_index")
        self._check_numbers(blocks, where)
        timestamps = np.concatenate([self.timestamps_seconds[start:end] for start, end in blocks])
        _check_timestamps(timestamps, where)
        timestamps.flags.writeable = False
        return timestamps

    def tasks_of(self, episode: EpisodeIndex, texts: Mapping[int, str]) -> tuple[str, ...]:
        """The tasks of ``episode``, in the order of its rows; ``texts`` are those of ``meta/tasks.parquet``.

        Raises:
            DatasetError: a row names a task that is not there.
        """
        indices = self.tasks.get(int(episode), ())
        unknown = [index for index in indices if index not in texts]
        if unknown:
            raise DatasetError(
                f"episode {episode} in {str(self.path)!r}: rows with task_index "
                f"{'null' if unknown[0] < 0 else unknown[0]}, which meta/tasks.parquet does not have"
            )
        return tuple(texts[index] for index in indices)

    def block_of(self, episode: EpisodeIndex) -> Block:
        """[First row, end) of ``episode``.

        Raises:
            DatasetError: its rows are none or lie apart.
        """
        blocks = self.blocks.get(int(episode), ())
        if len(blocks) != 1:
            raise DatasetError(
                f"{self.path}: the rows of episode {episode} "
                + ("lie apart in the file; expected one block" if blocks else "are missing")
            )
        return blocks[0]

    def _check_numbers(self, blocks: Sequence[Block], where: str) -> None:
        before = 0
        for block in blocks:
            wrong = _within(self.misnumbered_rows, block)
            if len(wrong):
                frame = before + int(self.misnumbered_rows[wrong[0]]) - block[0]
                raise DatasetError(
                    f"{where}, row {frame}: frame_index is {self.wrong_numbers[wrong[0]]}, expected {frame}"
                )
            before += block[1] - block[0]


def _within(rows: NDArray[np.int64], block: Block) -> range:
    """The places in ``rows`` (rising) of those that lie in ``block``."""
    first, end = np.searchsorted(rows, block)
    return range(int(first), int(end))


class DataFileCache:
    """Data files that were read last, bounded in bytes; safe for any number of threads."""

    def __init__(self, max_bytes: int = CACHE_BYTES, most_rows: int | None = None) -> None:
        """The file that was read last is kept however large it is.

        ``most_rows`` is what the dataset has in all, if that is known.
        """
        self._most_rows = most_rows
        self._max_bytes = max_bytes
        self._held: OrderedDict[Path, DataFileRows] = OrderedDict()
        # Held while reading: who wants an episode of the same file waits, and finds it.
        self._lock = threading.Lock()

    def rows_of(self, path: Path, what: str) -> DataFileRows:
        """The rows of the data file ``path``; ``what`` it is for stands in the error where it is missing.

        Raises:
            DatasetError: see ``check_readable`` and ``read_data_rows``.
        """
        with self._lock:
            if path not in self._held:
                check_readable(path, what)
                self._held[path] = read_data_rows(path, self._most_rows)
            self._held.move_to_end(path)
            while len(self._held) > 1 and self._held_bytes() > self._max_bytes:
                self._held.popitem(last=False)
            return self._held[path]

    def _held_bytes(self) -> int:
        return sum(rows.size_bytes for rows in self._held.values())


def read_data_rows(path: Path, most_rows: int | None = None) -> DataFileRows:
    """Read four columns of the data file ``path``, which may have ``most_rows``.

    Raises:
        DatasetError: the file can't be read, lacks one of the columns or has one twice, has too many rows, a
            row has no episode_index, or a column holds no numbers of its kind.
    """
    schema, columns = _read_columns(path, most_rows)
    return_freed_memory()
    blocks = _blocks(columns.episodes)
    misnumbered_rows = np.flatnonzero(columns.frames != _frame_numbers(blocks, len(columns.frames)))
    return DataFileRows(
        path=path,
        schema=schema,
        timestamps_seconds=columns.timestamps,
        blocks=blocks,
        null_rows=np.flatnonzero(columns.nulls),
        misnumbered_rows=misnumbered_rows,
        wrong_numbers=columns.frames[misnumbered_rows],
        tasks={episode: _in_order(columns.tasks, places) for episode, places in blocks.items()},
    )


def _read_columns(path: Path, most_rows: int | None) -> tuple[pa.Schema, "_Columns"]:
    try:
        with open_parquet(path) as file:
            _check_schema(file.schema_arrow, path)
            if most_rows is not None and file.metadata.num_rows > most_rows:
                raise DatasetError(
                    f"{path} has {file.metadata.num_rows} rows, but meta/info.json says that the dataset has "
                    f"{most_rows} frames ('total_frames'); correct that, or remove the rows"
                )
            return file.schema_arrow, _Columns.of(file, path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error


def _check_schema(schema: pa.Schema, path: Path) -> None:
    missing = [name for name in ROW_COLUMNS if name not in schema.names]
    if missing:
        raise DatasetError(f"{path}: the columns {missing} are missing; expected a file of LeRobot v3.0")
    for name in ROW_COLUMNS:
        kind = schema.field(name).type
        if not (pa.types.is_floating(kind) or (name != "timestamp" and pa.types.is_integer(kind))):
            expected = "float" if name == "timestamp" else "int64"
            raise DatasetError(f"{path}: the column {name!r} is of type {kind}, expected {expected}")


def _whole_numbers(column: pa.Array, name: str, path: Path) -> pa.Array:
    """The column as int64; pandas makes float64 of whole numbers where another row has none.

    Raises:
        DatasetError: a value is no whole number.
    """
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: the column {name!r} holds more than whole numbers: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """Four columns of a file, each of shape (rows,)."""

    timestamps: NDArray[np.float32]
    frames: NDArray[np.int64]
    episodes: NDArray[np.int64]
    tasks: NDArray[np.int64]
    nulls: NDArray[np.bool_]

    @classmethod
    def of(cls, file: pq.ParquetFile, path: Path) -> "_Columns":
        count = file.metadata.num_rows
        columns = cls(
            np.empty(count, np.float32),
            np.empty(count, np.int64),
            np.empty(count, np.int64),
            np.empty(count, np.int64),
            np.zeros(count, np.bool_),
        )
        start = 0
        for batch in file.iter_batches(columns=list(ROW_COLUMNS), use_threads=False):
            here = slice(start, start + batch.num_rows)
            timestamps = batch.column("timestamp")
            frames, episodes, tasks = (
                _whole_numbers(batch.column(name), name, path) for name in ROW_COLUMNS[1:]
            )
            if episodes.null_count:
                raise DatasetError(f"{path} has rows without an episode_index")
            with np.errstate(over="ignore"):  # what no float32 can hold is infinite, and told as such
                columns.timestamps[here] = timestamps.to_numpy(zero_copy_only=False)
            columns.frames[here] = frames.fill_null(-1).to_numpy(zero_copy_only=False)
            columns.episodes[here] = episodes.to_numpy()
            columns.tasks[here] = tasks.fill_null(-1).to_numpy(zero_copy_only=False)
            if timestamps.null_count or frames.null_count:
                for column in (timestamps, frames):
                    columns.nulls[here] |= column.is_null().to_numpy(zero_copy_only=False)
            start = here.stop
        return columns


def _blocks(episodes: NDArray[np.int64]) -> Mapping[int, Sequence[Block]]:
    """The blocks of rows, in order, by episode."""
    begins = np.concatenate([[True], np.diff(episodes) != 0])[: len(episodes)]
    starts = np.flatnonzero(begins)
    ends = np.append(starts, len(episodes))[1:]
    blocks: dict[int, list[Block]] = defaultdict(list)
    for episode, *block in zip(episodes[starts].tolist(), starts.tolist(), ends.tolist(), strict=True):
        blocks[episode].append((block[0], block[1]))
    return dict(blocks)


def _in_order(tasks: NDArray[np.int64], blocks: Sequence[Block]) -> tuple[int, ...]:
    """The numbers of the rows in ``blocks``, each once, in the order in which they come first."""
    found: dict[int, None] = {}
    for start, end in blocks:
        here = tasks[start:end]
        changes = np.concatenate([[0], np.flatnonzero(np.diff(here)) + 1])
        found.update(dict.fromkeys(here[changes].tolist()))
    return tuple(found)


def _frame_numbers(blocks: Mapping[int, Sequence[Block]], row_count: int) -> NDArray[np.int64]:
    """What frame_index has to be."""
    numbers = np.empty(row_count, np.int64)
    for of_episode in blocks.values():
        before = 0
        for start, end in of_episode:
            numbers[start:end] = np.arange(before, before + end - start)
            before += end - start
    return numbers


def _check_timestamps(timestamps: NDArray[np.float32], where: str) -> None:
    endless = np.flatnonzero(~np.isfinite(timestamps))
    if len(endless):
        row = int(endless[0])
        raise DatasetError(f"{where}, row {row}: timestamp is {timestamps[row]}, expected a finite number")
    stuck = np.flatnonzero(np.diff(timestamps) <= 0)
    if len(stuck):
        row = int(stuck[0]) + 1
        raise DatasetError(
            f"{where}, row {row}: timestamp {timestamps[row]} s follows {timestamps[row - 1]} s; "
            "expected timestamps that rise from row to row"
        )


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
