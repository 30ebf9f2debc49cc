"""Rewrite one data file: the two language columns last, a row group per episode, the rest as it was.

Twice over the file, an episode at a time: once for the rows that are there, once to write. Memory holds one
episode's rows.
"""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.parquet_files import READ_ERRORS, open_parquet, return_freed_memory
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.columns import (
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
from annotationrun_worker.language.existing import (
    AnnotatedEpisode,
    annotated_episodes,
    iterate_pieces,
)

HUGGINGFACE_KEY: Final = b"huggingface"
"""Parquet metadata of the ``datasets`` library: a stale one breaks the reader; LeRobot drops it too."""

_WRITER: Final = f"parquet-cpp-arrow version {pa.__version__}"
"""What pyarrow notes in a file; another version may write other bytes."""

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


EXPANDED_BYTES: Final = 512 * 1024**2
"""An episode's rows may take so much more than the file holds of them, where values that repeat are named."""

_LEVELS_A_BATCH: Final = 1
"""The writer looks whether a page is full only after so many values: by default 1024, which are hundreds of
megabytes of pictures. One at a time costs no time worth speaking of, and where pages end then depends on the
values alone, not on the pieces in which they were read: a file of ours that is written again is the same."""


def rewrite_data_file(
    source: Path, target: Path, language_of: LanguageOf, *, has_language: bool = True
) -> RewrittenFile:
    """Write ``target`` from ``source``; equal input gives equal bytes.

    Without ``has_language`` the language columns are left out, whatever ``language_of`` gives.

    Raises:
        DatasetError: ``source`` can't be read, an episode's rows lie apart, or its persistent rows are not
            the same on each frame.
        OSError: ``target`` can't be written.
    """
    schema = target_schema(_schema_of(source), has_language=has_language)
    # not ParquetWriter(path): errors of the disk shall come as OSError of this file
    with target.open("xb") as out:
        with pq.ParquetWriter(
            out,
            schema,
            compression="snappy",
            use_dictionary=dictionary_columns(schema),
            write_statistics=True,
            write_batch_size=_LEVELS_A_BATCH,
        ) as writer:
            rewritten = _write_episodes(source, writer, language_of)
            # the source's footer is gone; the writer needs twice its own to close a file of many row groups
            return_freed_memory()
        out.flush()
        os.fsync(out.fileno())
    del writer
    return_freed_memory()
    return rewritten


def _write_episodes(source: Path, writer: pq.ParquetWriter, language_of: LanguageOf) -> RewrittenFile:
    """A row group for each episode; all that was read is freed at the end."""
    episodes: list[int] = []
    persistent_rows = event_rows = 0
    with open_parquet(source) as file:
        # one open file for both, as the footer of a file of many row groups is large
        tables = _episode_tables(file, source)
        for episode, table in zip(_sound_episodes(file, source), tables, strict=True):
            language = language_of(replace(episode, table=table))
            new = with_language(table, language, writer.schema)
            writer.write_table(new, row_group_size=max(1, table.num_rows))
            episodes.append(episode.index)
            persistent_rows += len(language.persistent)
            event_rows += sum(len(rows) for rows in language.events.values())
    return RewrittenFile(tuple(episodes), persistent_rows, event_rows)


def is_as_rewritten(source: Path, language_of: LanguageOf, *, has_language: bool = True) -> bool:
    """Whether ``rewrite_data_file`` would give the bytes that are there, of a file that it wrote itself.

    Raises:
        DatasetError: see ``rewrite_data_file``.
    """
    with open_parquet(source) as file:
        names = file.schema_arrow.names
        target = target_schema(file.schema_arrow, has_language=has_language)
        if file.metadata.created_by != _WRITER or names != target.names:
            return False
        return all(language_of(episode) == episode.language for episode in _sound_episodes(file, source))


def dictionary_columns(schema: pa.Schema) -> list[str]:
    """The columns to be written with a dictionary, as parquet names their leaves: all but bytes (pictures).

    No two pictures are the same, and a dictionary page holds a thousand of them that are read for one.
    """
    empty = io.BytesIO()
    with pq.ParquetWriter(empty, schema):
        pass  # the leaves of a schema are known to a file alone
    leaves = pq.ParquetFile(empty).schema
    columns = [leaves.column(place) for place in range(len(leaves))]
    return [
        column.path
        for column in columns
        if column.physical_type != "BYTE_ARRAY" or column.logical_type.type != "NONE"
    ]


def target_schema(source: pa.Schema, *, has_language: bool = True) -> pa.Schema:
    """Other columns as they are and in order, the replaced ones gone, the language columns last."""
    gone = {*REPLACED_COLUMNS, *LANGUAGE_COLUMNS}
    kept = [field for field in source if field.name not in gone]
    metadata = {key: value for key, value in (source.metadata or {}).items() if key != HUGGINGFACE_KEY}
    language = [pa.field(PERSISTENT_COLUMN, PERSISTENT_TYPE), pa.field(EVENTS_COLUMN, EVENTS_TYPE)]
    return pa.schema([*kept, *(language if has_language else [])], metadata=metadata or None)


def with_language(table: pa.Table, language: EpisodeLanguage, schema: pa.Schema) -> pa.Table:
    """Append the language columns of one episode, if ``schema`` has them, to its other columns."""
    arrays = [table.column(field.name) for field in schema if field.name not in LANGUAGE_COLUMNS]
    if EVENTS_COLUMN in schema.names:
        arrays += [
            persistent_array(language.persistent, table.num_rows),
            events_array(language.events, table.num_rows),
        ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _schema_of(source: Path) -> pa.Schema:
    with open_parquet(source) as file:
        return file.schema_arrow


def _episode_tables(file: pq.ParquetFile, source: Path) -> Iterator[pa.Table]:
    """The columns to keep, an episode at a time."""
    gone = {*REPLACED_COLUMNS, *LANGUAGE_COLUMNS}
    columns = [name for name in file.schema_arrow.names if name not in gone]
    batches: list[pa.RecordBatch] = []
    current: int | None = None
    groups: set[int] = set()
    held = 0
    try:
        for piece in iterate_pieces(file, source, columns):
            if current is not None and piece.episode != current:
                yield pa.Table.from_batches(batches)
                batches, groups, held = [], set(), 0
            current = piece.episode
            batches.append(piece.batch)
            groups.add(piece.row_group)
            held += piece.batch.nbytes
            _check_fits(file, source, piece.episode, groups, held)
    except READ_ERRORS as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error
    if batches:
        yield pa.Table.from_batches(batches)


def _check_fits(file: pq.ParquetFile, source: Path, episode: int, groups: set[int], held: int) -> None:
    """Refuse an episode whose values, written out, are far more than what the file holds of them."""
    if held <= EXPANDED_BYTES:
        return
    stored = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    if held > EXPANDED_BYTES + 2 * stored:
        raise DatasetError(
            f"{source}, episode {episode}: its rows take more than {held} bytes, though the file holds "
            f"{stored} of them before compression; a dictionary that expands so far is made to do harm"
        )


def sound_episodes(source: Path) -> Iterator[AnnotatedEpisode]:
    """Read the episodes of a data file that can be rewritten.

    Raises:
        DatasetError: see ``rewrite_data_file``.
    """
    with open_parquet(source) as file:
        yield from _sound_episodes(file, source)


def _sound_episodes(file: pq.ParquetFile, source: Path) -> Iterator[AnnotatedEpisode]:
    _check_blocks(file, source)
    try:
        yield from map(_checked, annotated_episodes(file, source), itertools.repeat(source))
    except READ_ERRORS as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error


def _checked(episode: AnnotatedEpisode, source: Path) -> AnnotatedEpisode:
    where = f"{source}, episode {episode.index}"
    if episode.differs_at is not None:
        raise DatasetError(
            f"{where}, frame {episode.differs_at}: {PERSISTENT_COLUMN!r} differs from frame 0, so it "
            "is not clear which rows are right; repair or drop the column first"
        )
    return episode


def _check_blocks(file: pq.ParquetFile, source: Path) -> None:
    """Each episode's rows have to be one block: else half an episode would be taken for the whole."""
    try:
        table = file.read(columns=["episode_index"], use_threads=False)
        episodes = table["episode_index"].to_numpy()
    except (*READ_ERRORS, KeyError) as error:
        raise DatasetError(f"{source} can't be read as parquet: {error}") from error
    starts = np.concatenate([episodes[:1], episodes[1:][np.diff(episodes) != 0]])
    found, blocks = np.unique(starts, return_counts=True)
    if (blocks > 1).any():
        apart = found[blocks > 1].tolist()
        raise DatasetError(
            f"{source}: the rows of episodes {apart} lie apart in the file; expected one block each"
        )
