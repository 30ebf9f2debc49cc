"""Everything that metadata and rows show of a source, before a question is asked or a frame is decoded.

What is wrong with a single episode is that episode's trouble; what is wrong for all is an error.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotationrun_worker.dataset.data_rows import DataFileRows
from annotationrun_worker.dataset.episodes import (
    EpisodeReader,
    EpisodeSummary,
    as_ranges,
)
from annotationrun_worker.dataset.layout import DatasetFiles, check_readable
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, quick_parts
from annotationrun_worker.errors import DatasetError

SHOWN_EPISODES = 5
"""Whose faults an error's text tells one by one."""


@dataclass(slots=True)
class Survey:
    """What was found."""

    faults: dict[EpisodeIndex, str] = field(default_factory=dict)
    """Why a chosen episode can't be annotated."""
    tasks: dict[EpisodeIndex, str] = field(default_factory=dict)
    """The task of a chosen episode, where ``meta/episodes`` has another text."""
    quick_parts: dict[EpisodeIndex, Mapping[str, str]] = field(default_factory=dict)
    """What the quick fingerprints of a chosen episode without fault are made of."""
    warnings: list[str] = field(default_factory=list)
    """What contradicts itself and was decided as LeRobot decides it."""


def survey_source(
    files: DatasetFiles,
    info: Mapping[str, Any],
    episodes: Sequence[EpisodeSummary],
    chosen: Sequence[EpisodeSummary],
    cameras: Sequence[CameraKey],
    made_anew: Collection[str] = (),
) -> Survey:
    """Look at the metadata and at all rows of a source; of a video, whether it is there.

    Args:
        files: of the source; those on the Hub are fetched one by one, videos not at all.
        info: of ``meta/info.json``.
        episodes: all that ``meta/episodes`` lists.
        chosen: those to annotate.
        cameras: those that are looked at.
        made_anew: columns of the data files that need not be alike.

    Raises:
        DatasetError: a file is missing or unreadable, the columns of the data files are not alike,
            ``meta/episodes`` does not list an episode that has rows, or one has rows in two data files.
        HubAccessError, HubUnavailableError, StorageError: a file can't be fetched.
    """
    reader, survey = EpisodeReader(files.root, info, files), Survey()
    _check_videos(files, episodes)
    reader.tasks()
    listed = {int(episode.index) for episode in episodes}
    left = {int(episode.index): episode for episode in chosen}
    elsewhere: list[EpisodeIndex] = []
    other_task: dict[tuple[str, str], list[EpisodeIndex]] = {}
    first: DataFileRows | None = None
    for path, rows in _all_rows(reader, files):
        first = first or rows
        _check_alike(first, rows, made_anew)
        _check_listed(path, rows, listed)
        for index in rows.blocks:
            episode = left.pop(index, None)
            if episode is None:
                continue
            try:
                record = reader.read(episode, cameras)
            except DatasetError as error:
                survey.faults[episode.index] = str(error)
                continue
            survey.quick_parts[episode.index] = quick_parts(record, cameras, files.version_of)
            if path != episode.data_path:
                elsewhere.append(episode.index)
            if record.task != episode.task:
                survey.tasks[episode.index] = record.task
                other_task.setdefault((episode.task, record.task), []).append(episode.index)
    for episode in left.values():  # no data file holds them: the reader says so, or what else is wrong
        try:
            reader.read(episode, cameras)
        except DatasetError as error:
            survey.faults[episode.index] = str(error)
    survey.warnings += _warnings(elsewhere, other_task)
    return survey


def faults_text(faults: Mapping[int, str], chosen: int, allowed: int) -> str:
    """Which of ``chosen`` episodes can't be annotated, where only ``allowed`` may fail; and what to do."""
    shown = [f"  {faults[index]}" for index in sorted(faults)[:SHOWN_EPISODES]]
    more = len(faults) - len(shown)
    return "\n".join(
        [
            f"{len(faults)} of {chosen} episodes can't be annotated ({as_ranges(sorted(faults))}), "
            f"spec.failurePolicy.maxFailedEpisodes allows {allowed}:",
            *shown,
            *([f"  and {more} more"] if more > 0 else []),
            "correct the dataset, leave the episodes out of spec.source.episodes, or raise "
            "spec.failurePolicy.maxFailedEpisodes (their rows stay as they are)",
        ]
    )


def _check_videos(files: DatasetFiles, episodes: Iterable[EpisodeSummary]) -> None:
    """See that each video is there, also of cameras that nobody looks at: the output carries them all."""
    seen: set[Path] = set()
    for episode in episodes:
        for camera, span in episode.videos.items():
            if span.path in seen:
                continue
            seen.add(span.path)
            what = f"episode {episode.index}, camera {camera!r}"
            if files.commit:
                files.sha256_of(span.path)  # raises for one that the commit lacks
            else:
                check_readable(span.path, what)


def _all_rows(reader: EpisodeReader, files: DatasetFiles) -> Iterator[tuple[Path, DataFileRows]]:
    owner: dict[int, Path] = {}
    for path in files.data_files():
        rows = reader.read_file(path, "the rows of the dataset")
        for index in rows.blocks:
            first = owner.setdefault(index, path)
            if first != path:
                raise DatasetError(
                    f"episode {index} has rows in two data files, {str(first)!r} and {str(path)!r}; "
                    "expected one"
                )
        yield path, rows


def _check_alike(first: DataFileRows, rows: DataFileRows, made_anew: Collection[str]) -> None:
    """See that LeRobot can load both files: it takes the columns of one for all."""
    expected, found = (
        {field.name: field.type for field in it.schema if field.name not in made_anew} for it in (first, rows)
    )
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            there = f"of type {found[name]}" if name in found else "missing"
            other = f"of type {expected[name]}" if name in expected else "missing"
            raise DatasetError(
                f"{rows.path}: the column {name!r} is {there}, but in {str(first.path)!r} it is {other}; "
                "LeRobot loads only data files with the same columns"
            )


def _check_listed(path: Path, rows: DataFileRows, listed: set[int]) -> None:
    unlisted = sorted(rows.blocks.keys() - listed)
    if unlisted:
        raise DatasetError(
            f"{path} holds rows of episodes that meta/episodes does not list: {as_ranges(unlisted)}; remove "
            "the rows, or list the episodes"
        )


def _warnings(
    elsewhere: Sequence[EpisodeIndex], other_task: Mapping[tuple[str, str], Sequence[EpisodeIndex]]
) -> Iterator[str]:
    if elsewhere:
        yield (
            f"episodes {as_ranges(sorted(elsewhere))}: meta/episodes names another data file than the one "
            "that holds their rows, which were found by episode_index"
        )
    for (listed, real), indices in other_task.items():
        yield (
            f"episodes {as_ranges(sorted(indices))}: meta/episodes has the task {listed!r}, "
            f"meta/tasks.parquet {real!r}; the latter is used, as LeRobot shows it"
        )
