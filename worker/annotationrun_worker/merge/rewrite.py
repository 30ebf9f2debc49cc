"""Rewrite one data file: the two language columns last, a row group per episode, the rest as it was.

Twice over the file, an episode at a time: once for the rows that are there, once to write. Memory holds one
episode's rows.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.columns import (
    EVENTS_COLUMN,
    EVENTS_TYPE,
    LANGUAGE_COLUMNS,
    PERSISTENT_COLUMN,
    PERSISTENT_TYPE,
    REPLACED_COLUMNS,
    EpisodeLanguage,
    events_array,
    persistent_array,
)
from annotationrun_worker.merge.existing import (
    READ_ERRORS,
    AnnotatedEpisode,
    iterate_pieces,
    read_annotated,
)

HUGGINGFACE_KEY: Final = b"huggingface"
"""Parquet metadata of the ``datasets`` library: a stale one breaks the reader; LeRobot drops it too."""

LanguageOf = Callable[[AnnotatedEpisode], EpisodeLanguage]
"""From an episode as it is to the language rows that it shall have."""


@dataclass(frozen=True, slots=True)
class RewrittenFile:
    """What was written."""

    episodes: tuple[int, ...]
    """In file order."""
    persistent_rows: int
    """Counted once an episode, not once a frame."""
    event_rows: int


def rewrite_data_file(source: Path, target: Path, language_of: LanguageOf) -> RewrittenFile:
    """Write ``target`` from ``source``; equal input gives equal bytes.

    Raises:
        DatasetError: ``source`` can't be read, an episode's rows lie apart, its frames are not 0..n-1, or its
            persistent rows are not the same on each frame.
        OSError: ``target`` can't be written.
    """
    episodes: list[int] = []
    persistent_rows = event_rows = 0
    with contextlib.ExitStack() as stack:
        file, tables = _open(source)
        stack.enter_context(file)
        schema = target_schema(file.schema_arrow)
        # not ParquetWriter(path): errors of the disk shall come as OSError of this file
        out = stack.enter_context(target.open("xb"))
        writer = stack.enter_context(
            pq.ParquetWriter(out, schema, compression="snappy", use_dictionary=True, write_statistics=True)
        )
        for episode, table in zip(sound_episodes(source), tables, strict=True):
            language = language_of(episode)
            writer.write_table(with_language(table, language, schema), row_group_size=max(1, table.num_rows))
            episodes.append(episode.index)
            persistent_rows += len(language.persistent)
            event_rows += sum(len(rows) for rows in language.events.values())
        writer.close()
        out.flush()
        os.fsync(out.fileno())
    return RewrittenFile(tuple(episodes), persistent_rows, event_rows)


def target_schema(source: pa.Schema) -> pa.Schema:
    """Other columns as they are and in order, the replaced ones gone, the language columns last."""
    gone = {*REPLACED_COLUMNS, *LANGUAGE_COLUMNS}
    kept = [field for field in source if field.name not in gone]
    metadata = {key: value for key, value in (source.metadata or {}).items() if key != HUGGINGFACE_KEY}
    language = [pa.field(PERSISTENT_COLUMN, PERSISTENT_TYPE), pa.field(EVENTS_COLUMN, EVENTS_TYPE)]
    return pa.schema([*kept, *language], metadata=metadata or None)


def with_language(table: pa.Table, language: EpisodeLanguage, schema: pa.Schema) -> pa.Table:
    """Append the language columns of one episode to its other columns."""
    arrays = [table.column(field.name) for field in schema if field.name not in LANGUAGE_COLUMNS]
    arrays += [
        persistent_array(language.persistent, table.num_rows),
        events_array(language.events, table.num_rows),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _open(source: Path) -> tuple[pq.ParquetFile, Iterator[pa.Table]]:
    try:
        file = pq.ParquetFile(source)
    except READ_ERRORS as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error
    return file, _episode_tables(file, source)


def _episode_tables(file: pq.ParquetFile, source: Path) -> Iterator[pa.Table]:
    """The columns to keep, an episode at a time."""
    gone = {*REPLACED_COLUMNS, *LANGUAGE_COLUMNS}
    columns = [name for name in file.schema_arrow.names if name not in gone]
    batches: list[pa.RecordBatch] = []
    current: int | None = None
    try:
        for piece in iterate_pieces(file, source, columns):
            if current is not None and piece.episode != current:
                yield pa.Table.from_batches(batches)
                batches = []
            current = piece.episode
            batches.append(piece.batch)
    except READ_ERRORS as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error
    if batches:
        yield pa.Table.from_batches(batches)


def sound_episodes(source: Path) -> Iterator[AnnotatedEpisode]:
    """Read the episodes of a data file that can be rewritten.

    Raises:
        DatasetError: see ``rewrite_data_file``.
    """
    _check_blocks(source)
    for episode in read_annotated(source):
        where = f"{source}, episode {episode.index}"
        wrong = np.flatnonzero(episode.frame_indices != np.arange(len(episode.frame_indices)))
        if len(wrong):
            row = int(wrong[0])
            raise DatasetError(
                f"{where}, row {row}: frame_index is {episode.frame_indices[row]}, expected {row}"
            )
        if episode.differs_at is not None:
            raise DatasetError(
                f"{where}, frame {episode.differs_at}: {PERSISTENT_COLUMN!r} differs from frame 0, so it "
                "is not clear which rows are right; repair or drop the column first"
            )
        yield episode


def _check_blocks(source: Path) -> None:
    """Each episode's rows have to be one block: else half an episode would be taken for the whole."""
    try:
        episodes = pq.read_table(source, columns=["episode_index"], partitioning=None)[
            "episode_index"
        ].to_numpy()
    except (*READ_ERRORS, KeyError) as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error
    starts = np.concatenate([episodes[:1], episodes[1:][np.diff(episodes) != 0]])
    found, blocks = np.unique(starts, return_counts=True)
    if (blocks > 1).any():
        apart = found[blocks > 1].tolist()
        raise DatasetError(
            f"{source}: the rows of episodes {apart} lie apart in the file; expected one block each"
        )
