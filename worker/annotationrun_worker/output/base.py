"""What an output holds already: the base of every row that a merge does not make.

A merge rebuilds its output from the source, but rows of other modules, of other tools and of episodes that
are not selected have to stay. They are taken over where the episode is the same: where its frames have the
same content in every column, and its videos are the same.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from annotationrun_worker.dataset.episodes import as_ranges
from annotationrun_worker.dataset.layout import data_files
from annotationrun_worker.dataset.parquet_files import READ_ERRORS
from annotationrun_worker.errors import OutputError
from annotationrun_worker.language.columns import EpisodeLanguage
from annotationrun_worker.language.existing import AnnotatedEpisode, all_rows, read_row_group
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.output.record import Unanswered

_LOG = logging.getLogger(__name__)

HasSameVideos = Callable[[int, Collection[str | None]], bool]
"""Whether an episode, by index, has the same videos in the source and in the output, of the cameras that rows
speak of (``None``: rows that name none)."""


_PICTURES_AT_ONCE: Final = 32
"""Of the output, in memory."""

_PLACE_COLUMNS: Final = frozenset({"index", "episode_index", "task_index"})
"""Another number there is no other episode."""


def no_videos_are_the_same(_index: int, _cameras: Collection[str | None]) -> bool:
    """Where nothing is known of the output's videos."""
    return False


class OutputBase:
    """The episodes of an output that a merge made: a row group each."""

    def __init__(self, output: Path, has_same_videos: HasSameVideos) -> None:
        """Nothing is read yet: a merge that is there already asks for no row."""
        self._output = output
        self._has_same_videos = has_same_videos
        self._open: tuple[Path, pq.ParquetFile] | None = None

    @cached_property
    def _places(self) -> Mapping[int, tuple[Path, int]]:
        """Data file and row group of each episode.

        Raises:
            OutputError: a data file can't be read.
        """
        places: dict[int, tuple[Path, int]] = {}
        try:
            for path in data_files(self._output):
                with pq.ParquetFile(path) as file:
                    leaf = file.schema.names.index("episode_index")
                    for group in range(file.num_row_groups):
                        statistics = file.metadata.row_group(group).column(leaf).statistics
                        places[int(statistics.min)] = path, group
        except (*READ_ERRORS, AttributeError) as error:
            raise _unreadable(self._output, error) from error
        return places

    @property
    def episodes(self) -> frozenset[int]:
        """Those that it holds."""
        return frozenset(self._places)

    def close(self) -> None:
        """Close the file that was read last."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def read(self, index: int) -> AnnotatedEpisode | None:
        """The episode as the output has it; ``None`` if it has not.

        Raises:
            OutputError: it can't be read.
        """
        if index not in self._places:
            return None
        path, group = self._places[index]
        try:
            return read_row_group(self._file(path), path, group)
        except READ_ERRORS as error:
            raise _unreadable(self._output, error) from error

    def holds(self, episode: AnnotatedEpisode, language: EpisodeLanguage) -> bool:
        """Whether the output has the episode with the same frames; ``episode`` comes with its columns.

        ``language`` is what the output's rows say of it: videos that they don't speak of may be others.

        Raises:
            OutputError: it can't be read.
            DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``SameVideos``.
        """
        if episode.index not in self._places or episode.table is None:
            return False
        path, group = self._places[episode.index]
        try:
            has_same_rows = _has_same_rows(self._file(path), group, episode.table)
        except READ_ERRORS as error:
            raise _unreadable(self._output, error) from error
        if not has_same_rows:
            return False
        cameras = {row.camera for row in all_rows(language)}
        return not cameras or self._has_same_videos(episode.index, cameras)

    def _file(self, path: Path) -> pq.ParquetFile:
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, pq.ParquetFile(path)
        return self._open[1]


def _unreadable(output: Path, error: Exception) -> OutputError:
    return OutputError(
        f"the rows of the output {output} can't be read ({error}), and would be lost; move it away, or name "
        "another output"
    )


def _has_same_rows(file: pq.ParquetFile, group: int, table: pa.Table) -> bool:
    """Whether a row group holds the values of ``table``, in the columns that both have."""
    there = set(file.schema_arrow.names)
    both = [column for column in table.schema if column.name not in _PLACE_COLUMNS and column.name in there]
    names = [column.name for column in both if not _is_picture(column.type)]
    theirs = file.read_row_group(group, columns=names, use_threads=False)
    if theirs.num_rows != table.num_rows:
        return False
    if not all(_is_same(table[name], theirs[name]) for name in names):
        return False
    pictures = [column.name for column in both if _is_picture(column.type)]
    return not pictures or _has_same_pictures(file, group, table.select(pictures))


def _has_same_pictures(file: pq.ParquetFile, group: int, table: pa.Table) -> bool:
    row = 0
    for batch in file.iter_batches(
        _PICTURES_AT_ONCE, row_groups=[group], columns=table.column_names, use_threads=False
    ):
        ours = table.slice(row, batch.num_rows)
        if not all(ours[name].equals(pa.chunked_array([batch.column(name)])) for name in table.column_names):
            return False
        row += batch.num_rows
    return True


def _is_picture(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Whether both hold the same values; NaN is the same as NaN here, which Arrow does not say."""
    if one.type != other.type or len(one) != len(other):
        return False
    if one.equals(other):
        return True
    if _is_list(one.type):
        lengths_are_same = pc.list_value_length(one).equals(pc.list_value_length(other))
        return bool(lengths_are_same) and _is_same(pc.list_flatten(one), pc.list_flatten(other))
    if not pa.types.is_floating(one.type) or one.is_null().to_pylist() != other.is_null().to_pylist():
        return False
    return bool(np.array_equal(one.to_numpy(), other.to_numpy(), equal_nan=True))


@dataclass(frozen=True, slots=True)
class LanguageSummary:
    """What rows a dataset has."""

    episodes: int = 0
    """All that it has, with rows or without."""
    labelled_episodes: Mapping[ModuleName, int] = field(default_factory=dict)
    """How many episodes have rows of each module, whoever made them."""
    rows_by_style: Mapping[str, int] = field(default_factory=dict)
    """Persistent ones are counted once an episode; ``speech`` are those without style."""
    taken_away: Sequence[str] = ()
    """What an earlier output had and this one lacks, a line a style."""
    unanswered: Sequence[Unanswered] = ()
    """Questions that got no usable answer."""


@dataclass(slots=True)
class RowsTakenAway:
    """Rows that an output had and no longer has, nothing of their style being in their place."""

    _by_episode: dict[int, Counter[str]] = field(default_factory=dict)

    def note(self, index: int, before: EpisodeLanguage, after: EpisodeLanguage | None) -> None:
        """Count what an episode loses; ``after`` is ``None`` where the episode goes."""
        left = set() if after is None else {row.style for row in all_rows(after)}
        lost = Counter(row.style or "speech" for row in all_rows(before) if row.style not in left)
        if lost:
            self._by_episode[index] = lost

    def lines(self) -> list[str]:
        """By style: how many rows, and of which episodes."""
        total = Counter[str]()
        episodes: dict[str, list[int]] = {}
        for index, lost in sorted(self._by_episode.items()):
            total.update(lost)
            for style in lost:
                episodes.setdefault(style, []).append(index)
        return [
            f"{total[style]} rows {style!r} of the episodes {as_ranges(episodes[style])}"
            for style in sorted(total)
        ]


def say_taken_away(summary: LanguageSummary) -> None:
    """Tell the user which rows an output is about to lose."""
    for line in summary.taken_away:
        _LOG.warning("the output loses %s", line)
