"""The rows that an episode has already, and which of them stay.

Language columns that are there already: read, whatever types their writer gave them.

LeRobot's own writer lets Arrow infer the types: timestamps are double, tool calls nested structs whose keys
are padded with nulls, a column without values is of type null. Its dataset visualizer gives events a
``timestamp`` too. Others store JSON text. All become ``LanguageRow``.

Which rows of an episode go, which come, which survive. Pure.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from annotationrun_worker.dataset.parquet_files import READ_ERRORS, fitting_rows, open_parquet
from annotationrun_worker.errors import ConfigurationError, DatasetError, StagingError
from annotationrun_worker.language.columns import (
    EVENTS_COLUMN,
    EVENTS_TYPE,
    LANGUAGE_COLUMNS,
    PERSISTENT_COLUMN,
    PERSISTENT_TYPE,
    EpisodeLanguage,
    LanguageRow,
    json_text,
    sort_events,
    sort_persistent,
)
from annotationrun_worker.language.rows import PERSISTENT_STYLES, ModuleName, StagedRow, module_of

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


ExistingRows = Literal["Replace", "Keep"]
"""``output.existingRows``: what happens to rows a module's results would replace."""

ModuleRows = Mapping[ModuleName, Sequence[StagedRow]]
"""The rows of one episode by module: modules that succeeded there; no rows is a result too."""


def modules_of(language: EpisodeLanguage) -> frozenset[ModuleName]:
    """The modules that own at least one of the rows."""
    owners = (module_of(row.style) for row in all_rows(language))
    return frozenset(owner for owner in owners if owner is not None)


def all_rows(language: EpisodeLanguage) -> Iterable[LanguageRow]:
    """Persistent rows, then events by frame."""
    yield from language.persistent
    for frame in sorted(language.events):
        yield from language.events[frame]


def replaced_modules(
    episode: AnnotatedEpisode,
    modules: Iterable[ModuleName],
    existing_rows: ExistingRows,
    ours: Collection[ModuleName] = (),
    settled: Collection[ModuleName] = (),
) -> frozenset[ModuleName]:
    """Which of ``modules`` replace the rows that they own in the episode, once they have results for it.

    The rows of ``ours`` came from results of earlier runs: these are replaced in any case. Those of
    ``settled`` are there already, made of the same subtasks as the others.

    Raises:
        ConfigurationError, DatasetError: see ``replace_rows``; both can be known before there are results.
    """
    present = modules_of(episode.language)
    replaced = frozenset(
        module for module in modules if existing_rows == "Replace" or module not in present or module in ours
    )
    renewed = replaced.union(settled)
    if "plan" in replaced and {"plan", "interjections"} <= present and "interjections" not in renewed:
        raise ConfigurationError(
            f"episode {episode.index} has interjections that belong to its present subtasks, which the plan "
            "module would replace; enable the module interjections too, or remove them before "
            f"('annotationrun drop'){'' if 'plan' in ours else ', or set spec.output.existingRows: Keep'}"
        )
    _check_roles(episode, replaced)
    return replaced


def drop_rows(episode: AnnotatedEpisode, modules: Collection[ModuleName]) -> EpisodeLanguage:
    """The rows of the episode without those that ``modules`` own.

    Raises:
        ConfigurationError: interjections would stay whose subtasks go.
        DatasetError: a surviving row has no role.
    """
    present = modules_of(episode.language)
    if "plan" in modules and "interjections" not in modules and {"plan", "interjections"} <= present:
        raise ConfigurationError(
            f"episode {episode.index} has interjections that belong to its subtasks, which the module plan "
            "owns; drop the module interjections too"
        )
    _check_roles(episode, modules)
    return _without(episode.language, modules)


def replace_rows(
    episode: AnnotatedEpisode,
    staged: ModuleRows,
    existing_rows: ExistingRows = "Replace",
    ours: Collection[ModuleName] = (),
    settled: Collection[ModuleName] = (),
) -> tuple[EpisodeLanguage, frozenset[ModuleName]]:
    """Put the staged rows in place of the ones their modules own; every other row survives.

    With ``Keep``, a module that owns rows in the episode already changes nothing there, but for those in
    ``ours``: their rows came from results of earlier runs. The rows of ``settled`` are there already.

    Returns:
        The episode's rows, and the modules whose rows were replaced.

    Raises:
        StagingError: a row of another module's style, or of a frame that the episode does not have.
        ConfigurationError: subtasks would change under interjections that stay.
        DatasetError: a surviving row has no role.
    """
    replaced = replaced_modules(episode, staged, existing_rows, ours, settled)
    rows = [(module, row) for module in sorted(replaced) for row in staged[module]]
    for module, row in rows:
        _check(module, row, episode)

    kept = _without(episode.language, replaced)
    persistent = list(kept.persistent)
    events = {frame: list(at_frame) for frame, at_frame in kept.events.items()}
    for _, row in rows:
        if row.style in PERSISTENT_STYLES:
            persistent.append(_as_written(row, episode.timestamps_seconds))
        else:
            events.setdefault(row.frame, []).append(_as_written(row, None))
    language = EpisodeLanguage(
        persistent=sort_persistent(persistent),
        events={frame: sort_events(events[frame]) for frame in sorted(events) if events[frame]},
    )
    return language, replaced


def _without(language: EpisodeLanguage, modules: Collection[ModuleName]) -> EpisodeLanguage:
    def survive(rows: Iterable[LanguageRow]) -> tuple[LanguageRow, ...]:
        return tuple(row for row in rows if module_of(row.style) not in modules)

    events = {frame: survive(rows) for frame, rows in language.events.items()}
    return EpisodeLanguage(
        persistent=sort_persistent(survive(language.persistent)),
        events={frame: sort_events(events[frame]) for frame in sorted(events) if events[frame]},
    )


def _check_roles(episode: AnnotatedEpisode, gone: Collection[ModuleName]) -> None:
    for row in all_rows(episode.language):
        if row.role is None and module_of(row.style) not in gone:
            raise DatasetError(
                f"episode {episode.index}: a row of style {row.style!r} has no role; repair it"
            )


def _check(module: ModuleName, row: StagedRow, episode: AnnotatedEpisode) -> None:
    if module_of(row.style) != module:
        raise StagingError(
            f"episode {episode.index}: a staged row of module {module} has style {row.style!r}, "
            f"which is {module_of(row.style) or 'no module'}'s"
        )
    try:
        row.to_json().encode()
    except ValueError as error:
        raise StagingError(
            f"episode {episode.index}, frame {row.frame}: a staged row of module {module} holds text that "
            f"UTF-8 or JSON can't: {error}"
        ) from error
    frame_count = len(episode.timestamps_seconds)
    if not 0 <= row.frame < frame_count:
        raise StagingError(
            f"episode {episode.index}: a staged row of module {module} names frame {row.frame}, "
            f"the episode has the frames 0 to {frame_count - 1}"
        )


def _as_written(row: StagedRow, timestamps_seconds: NDArray[np.float32] | None) -> LanguageRow:
    calls = row.tool_calls
    return LanguageRow(
        role=row.role,
        content=row.content,
        style=row.style,
        camera=row.camera,
        tool_calls=None if calls is None else tuple(json_text(dict(call)) for call in calls),
        timestamp_seconds=None if timestamps_seconds is None else float(timestamps_seconds[row.frame]),
    )
