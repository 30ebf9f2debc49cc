"""Language columns that are there already: read, whatever types their writer gave them.

LeRobot's own writer lets Arrow infer the types: timestamps are double, tool calls nested structs whose keys
are padded with nulls, a column without values is of type null. Its dataset visualizer gives events a
``timestamp`` too. Others store JSON text. All become ``LanguageRow``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotationrun_worker.dataset.parquet_files import READ_ERRORS, fitting_rows, open_parquet
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.columns import (
    EVENTS_COLUMN,
    EVENTS_TYPE,
    LANGUAGE_COLUMNS,
    PERSISTENT_COLUMN,
    PERSISTENT_TYPE,
    EpisodeLanguage,
    LanguageRow,
    json_text,
)

FRAME_COLUMNS: Final = ("timestamp", "frame_index", "episode_index")

BATCH_FRAMES: Final = 256
"""Frames read at once: a frame of an image dataset holds its PNG files, some hundred kilobytes each."""

_FIELDS: Final = {
    PERSISTENT_COLUMN: frozenset(item.name for item in PERSISTENT_TYPE.value_type),
    EVENTS_COLUMN: frozenset(item.name for item in EVENTS_TYPE.value_type) | {"timestamp"},
}
"""An event's ``timestamp`` says what its frame's does, and is not kept."""


@dataclass(frozen=True, slots=True, eq=False)
class EpisodePiece:
    """Consecutive rows of one episode, as they stand in one row group."""

    episode: int
    row_group: int
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedEpisode:
    """One episode of a data file: its frames' times and its language rows."""

    index: int
    timestamps_seconds: NDArray[np.float32]
    """Shape (frames,), float32."""
    frame_indices: NDArray[np.int64]
    """Shape (frames,), int64: the column ``frame_index``; 0..n-1 in a sound file."""
    row_groups: tuple[int, ...]
    """The row groups that hold its rows; one in a file of ours."""
    language: EpisodeLanguage
    differs_at: int | None
    """The first frame whose persistent list is not that of frame 0; ``None`` if all are the same."""
    table: pa.Table | None = None
    """Its columns but those of language; only where it is read to be written again."""


def iterate_pieces(
    file: pq.ParquetFile, path: Path, columns: Sequence[str], row_groups: Sequence[int] | None = None
) -> Iterator[EpisodePiece]:
    """Read the rows in order, in pieces of at most ``BATCH_FRAMES`` frames of one episode and one row group.

    Without ``row_groups`` all of the file are read.

    Raises:
        DatasetError: a row without an episode_index, or a column that does not fit into memory.
    """
    check_numbers(file.schema_arrow, ["episode_index"], path)
    for row_group in range(file.num_row_groups) if row_groups is None else row_groups:
        for batch in file.iter_batches(
            batch_size=fitting_rows(file, row_group, columns, BATCH_FRAMES, path),
            row_groups=[row_group],
            columns=list(columns),
            use_threads=False,
        ):
            column = batch.column("episode_index")
            if column.null_count:
                raise DatasetError(f"{path}: row group {row_group} has rows without an episode_index")
            episodes = column.to_numpy()
            starts = [0, *(np.flatnonzero(np.diff(episodes)) + 1).tolist()] if len(episodes) else []
            for start, end in zip(starts, [*starts[1:], len(episodes)], strict=True):
                yield EpisodePiece(int(episodes[start]), row_group, batch.slice(start, end - start))


def read_annotated(path: Path) -> Iterator[AnnotatedEpisode]:
    """Read frames' times and language rows of a data file, an episode at a time, in file order.

    An episode whose rows lie apart in the file comes more than once.

    Raises:
        DatasetError: the file can't be read, lacks a column that each dataset has, or its language columns
            hold something that is no language row.
    """
    try:
        with open_parquet(path) as file:
            yield from annotated_episodes(file, path)
    except READ_ERRORS as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error


def read_row_group(file: pq.ParquetFile, path: Path, row_group: int) -> AnnotatedEpisode:
    """The episode in a row group of a file that a merge wrote; raises ``READ_ERRORS`` too.

    Raises:
        DatasetError: see ``read_annotated``.
    """
    (episode,) = annotated_episodes(file, path, [row_group])
    return episode


def annotated_episodes(
    file: pq.ParquetFile, path: Path, row_groups: Sequence[int] | None = None
) -> Iterator[AnnotatedEpisode]:
    """``read_annotated`` of a file that is open; raises ``READ_ERRORS`` too."""
    names = file.schema_arrow.names
    missing = [name for name in FRAME_COLUMNS if name not in names]
    if missing:
        raise DatasetError(f"{path}: the columns {missing} are missing; expected a file of LeRobot v3.0")
    check_numbers(file.schema_arrow, FRAME_COLUMNS, path)
    check_fields(file.schema_arrow, path)
    columns = [*FRAME_COLUMNS, *(name for name in LANGUAGE_COLUMNS if name in names)]
    gatherer: EpisodeGatherer | None = None
    for piece in iterate_pieces(file, path, columns, row_groups):
        if gatherer is not None and gatherer.episode != piece.episode:
            yield gatherer.finish()
            gatherer = None
        gatherer = gatherer or EpisodeGatherer(piece.episode, path)
        gatherer.add(piece)
    if gatherer is not None:
        yield gatherer.finish()


def check_numbers(schema: pa.Schema, names: Sequence[str], path: Path) -> None:
    """Refuse columns that are there and hold no numbers.

    Raises:
        DatasetError: one does.
    """
    for name in names:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DatasetError(f"{path}: the column {name!r} is of type {kind}, expected numbers")


def check_fields(schema: pa.Schema, path: Path) -> None:
    """Refuse language columns that hold more than this version knows, as a rewrite would lose it.

    Raises:
        DatasetError: a language column is neither a list of structs nor text, or has an unknown field.
    """
    for name in LANGUAGE_COLUMNS:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if pa.types.is_null(kind) or _is_text(kind):
            continue
        item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else None
        if item is not None and pa.types.is_null(item):
            continue
        if item is None or not pa.types.is_struct(item):
            raise DatasetError(
                f"{path}: the column {name!r} is of type {kind}, expected a list of structs, or JSON text"
            )
        unknown = sorted({part.name for part in item} - _FIELDS[name])
        if unknown:
            raise DatasetError(
                f"{path}: the rows of {name!r} have the fields {unknown} that this version does not know; "
                f"expected {sorted(_FIELDS[name])}"
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


@dataclass(slots=True, eq=False)
class EpisodeGatherer:
    """Puts the pieces of one episode together, keeping times and rows, not the pieces."""

    episode: int
    path: Path
    _timestamps: list[NDArray[np.float32]] = field(default_factory=list)
    _frame_indices: list[NDArray[np.int64]] = field(default_factory=list)
    _row_groups: list[int] = field(default_factory=list)
    _frame_count: int = 0
    _first_list: pa.Array | None = None
    _persistent: tuple[LanguageRow, ...] = ()
    _events: dict[int, tuple[LanguageRow, ...]] = field(default_factory=dict)
    _differs_at: int | None = None

    def add(self, piece: EpisodePiece) -> None:
        """Take the next rows of the episode.

        Raises:
            DatasetError: a null among the times or frame numbers, or something that is no language row.
        """
        batch = piece.batch
        self._timestamps.append(self._numbers(batch, "timestamp", np.float32))
        self._frame_indices.append(self._numbers(batch, "frame_index", np.int64))
        if piece.row_group not in self._row_groups:
            self._row_groups.append(piece.row_group)
        names = batch.schema.names
        if PERSISTENT_COLUMN in names:
            self._add_persistent(batch.column(PERSISTENT_COLUMN))
        if EVENTS_COLUMN in names:
            self._add_events(batch.column(EVENTS_COLUMN))
        self._frame_count += batch.num_rows

    def finish(self) -> AnnotatedEpisode:
        """Everything taken so far, as one episode."""
        return AnnotatedEpisode(
            index=self.episode,
            timestamps_seconds=np.concatenate(self._timestamps),
            frame_indices=np.concatenate(self._frame_indices),
            row_groups=tuple(self._row_groups),
            language=EpisodeLanguage(self._persistent, self._events),
            differs_at=self._differs_at,
        )

    def _numbers(self, batch: pa.RecordBatch, name: str, dtype: Any) -> NDArray[Any]:  # noqa: ANN401
        column = batch.column(name)
        if column.null_count:
            raise DatasetError(f"{self.path}, episode {self.episode}: rows without a {name}")
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype)

    def _add_persistent(self, column: pa.Array) -> None:
        if self._first_list is None:
            self._first_list = column.slice(0, 1)
            self._persistent = self._rows(column[0].as_py(), PERSISTENT_COLUMN, 0)
        if self._differs_at is not None:
            return
        # equal to the first one and each to the next: all are equal, in two calls for the whole piece
        if not column.slice(0, 1).equals(self._first_list):
            self._differs_at = self._frame_count
        elif not column.slice(1).equals(column.slice(0, len(column) - 1)):
            same = (column.slice(row, 1).equals(self._first_list) for row in range(len(column)))
            self._differs_at = self._frame_count + next(
                row for row, is_same in enumerate(same) if not is_same
            )

    def _add_events(self, column: pa.Array) -> None:
        if pa.types.is_null(column.type):
            return
        length_of = pc.utf8_length if _is_text(column.type) else pc.list_value_length
        lengths = pc.fill_null(length_of(column), 0).to_numpy()
        for row in np.flatnonzero(lengths).tolist():
            frame = self._frame_count + row
            if rows := self._rows(column[row].as_py(), EVENTS_COLUMN, frame):
                self._events[frame] = rows

    def _rows(self, values: Any, column: str, frame: int) -> tuple[LanguageRow, ...]:  # noqa: ANN401
        try:
            values = json.loads(values) if isinstance(values, str) and values else values
            if values is not None and not isinstance(values, list):
                raise TypeError(f"{repr(values)[:120]}, expected a list")
            return tuple(_language_row(value, column) for value in values or ())
        except (TypeError, ValueError, RecursionError) as error:
            raise DatasetError(
                f"{self.path}, episode {self.episode}, frame {frame}: not a row of {column!r}: {error}"
            ) from error


def _language_row(value: Any, column: str) -> LanguageRow:  # noqa: ANN401 - a struct, or any JSON value
    if not isinstance(value, dict):
        raise TypeError(f"{repr(value)[:120]}, expected a struct")
    if unknown := sorted(value.keys() - _FIELDS[column]):  # JSON text has no type that tells them before
        raise TypeError(f"the fields {unknown}, which this version does not know")
    is_persistent = column == PERSISTENT_COLUMN
    texts = {name: value.get(name) for name in ("role", "content", "style", "camera")}
    for name, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}, expected text")
    timestamp = value.get("timestamp")
    if is_persistent and not isinstance(timestamp, int | float):
        raise TypeError(f"timestamp is {timestamp!r}, expected seconds")
    calls = value.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise TypeError(f"tool_calls is {calls!r}, expected a list")
    return LanguageRow(
        role=texts["role"],
        content=texts["content"],
        style=texts["style"],
        camera=texts["camera"],
        tool_calls=None if calls is None else tuple(_call_text(call) for call in calls if call is not None),
        timestamp_seconds=float(np.float32(timestamp)) if is_persistent else None,
    )


def _call_text(call: Any) -> str:  # noqa: ANN401 - text, or the nested struct that Arrow inferred
    return call if isinstance(call, str) else json_text(_without_padding(call))


def _without_padding(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Drop the null keys: Arrow pads each struct to the union of all keys."""
    if isinstance(value, dict):
        return {key: _without_padding(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_padding(item) for item in value]
    return value
