"""Episodes: what ``meta/episodes`` says of them, and the episodes themselves, read one by one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from annotationrun_worker.dataset.data_rows import DataFileCache
from annotationrun_worker.dataset.files import DatasetFiles, FolderFiles
from annotationrun_worker.dataset.freed_memory import return_freed_memory
from annotationrun_worker.dataset.image_rows import find_image_spans
from annotationrun_worker.dataset.layout import EPISODES_FOLDER, check_readable, data_file, video_file
from annotationrun_worker.dataset.metadata import read_features
from annotationrun_worker.dataset.records import CameraKey, EpisodeIndex, EpisodeRecord, Features, VideoSpan
from annotationrun_worker.errors import ConfigurationError, DatasetError, UnknownCameraError

TASK_SEPARATOR = "; "
"""Joins the tasks of an episode that has several."""

_PLAIN_COLUMNS = (
    "episode_index",
    "tasks",
    "length",
    "data/chunk_index",
    "data/file_index",
    "dataset_from_index",
    "dataset_to_index",
)
_VIDEO_FIELDS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
_BATCH_ROWS = 1000
"""Rows of ``meta/episodes`` that are Python objects at once."""


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """One row of ``meta/episodes``: where an episode lies; nothing of its rows is read yet."""

    index: EpisodeIndex
    tasks: tuple[str, ...]
    length: int
    """Number of frames."""
    data_path: Path
    """The parquet file that holds the episode's rows, absolute."""
    dataset_from_index: int
    """The dataset-wide index of the episode's first frame."""
    videos: Mapping[CameraKey, VideoSpan]
    """The cameras stored as videos, in the order of ``info.json``."""
    image_cameras: tuple[CameraKey, ...]
    """The cameras stored as pictures in the rows, in the order of ``info.json``."""

    @property
    def task(self) -> str:
        """The tasks joined with ``"; "``; may be empty."""
        return TASK_SEPARATOR.join(self.tasks)


def list_episodes(root: Path, info: Mapping[str, Any]) -> list[EpisodeSummary]:
    """Read ``meta/episodes`` (its needed columns) and return the episodes in order of their index.

    Raises:
        DatasetError: no such files, columns missing, values that contradict each other, an episode that is
            there twice, or another number of episodes than ``info`` says.
    """
    root = root.absolute()
    features = read_features(info)
    by_index: dict[EpisodeIndex, EpisodeSummary] = {}
    video_cameras = [camera for camera in features.cameras if camera not in features.image_cameras]
    files = _Files(root, info)
    for path, row in _metadata_rows(root, video_cameras):
        summary = _summary(files, row, features, path)
        if summary.index in by_index:
            raise DatasetError(f"{path}: episode {summary.index} is there twice in meta/episodes")
        by_index[summary.index] = summary
    return_freed_memory()
    expected = info.get("total_episodes", len(by_index))
    if expected != len(by_index):
        raise DatasetError(
            f"{root}: meta/info.json says {expected} episodes, meta/episodes holds {len(by_index)}; "
            "is the download complete?"
        )
    return [by_index[index] for index in sorted(by_index)]


def select_episodes(
    summaries: Sequence[EpisodeSummary], ranges: Sequence[range] | None
) -> list[EpisodeSummary]:
    """Return the episodes whose index lies in one of ``ranges``, in order of index; all of them for ``None``.

    Raises:
        ConfigurationError: a range names an episode that does not exist; the text lists those that do.
    """
    ordered = sorted(summaries, key=lambda summary: summary.index)
    if ranges is None:
        return ordered
    existing = {int(summary.index) for summary in ordered}
    for chosen in ranges:
        missing = next((index for index in chosen if index not in existing), None)
        if missing is not None:
            raise ConfigurationError(
                f"episode {missing} was selected, but the dataset has the episodes "
                f"{as_ranges(sorted(existing))}; correct spec.source.episodes"
            )
    wanted = {index for chosen in ranges for index in chosen}
    return [summary for summary in ordered if summary.index in wanted]


class EpisodeReader:
    """Reads episodes of one dataset, in any order; safe for any number of threads.

    A data file is read once, not once an episode, and stays in a bounded cache: see ``DataFileCache``.
    """

    def __init__(self, root: Path, info: Mapping[str, Any], files: DatasetFiles | None = None) -> None:
        """Nothing is read yet; without ``files`` all is below ``root``."""
        self._root = root
        self._fps = float(info["fps"])
        self._dataset = files or FolderFiles(root)
        self._files = DataFileCache()

    def read(self, summary: EpisodeSummary, cameras: Sequence[CameraKey]) -> EpisodeRecord:
        """Read the timestamps of one episode, and check that the pictures of ``cameras`` can be read.

        Of the data file only three columns are read. With no cameras given no video file is touched;
        ``videos`` and ``images`` of the result hold the given ones, in the order of ``info.json``.

        Raises:
            DatasetError: a file is missing or unreadable, or the rows are not what ``meta/episodes`` says:
                another number, frame_index not 0..n-1, timestamps that are not finite or not strictly
                increasing.
            UnknownCameraError: a camera that the dataset does not have.
        """
        known = [*summary.videos, *summary.image_cameras]
        unknown = [camera for camera in cameras if camera not in known]
        if unknown:
            raise UnknownCameraError(
                f"the dataset at {str(self._root)!r} has no camera {unknown[0]!r}; its cameras are {known}"
            )
        with self._dataset.using(summary.data_path):
            rows = self._files.rows_of(summary.data_path, f"the rows of episode {summary.index}")
        timestamps = rows.timestamps_of(summary.index, summary.length)
        videos = {camera: span for camera, span in summary.videos.items() if camera in cameras}
        if not self._dataset.commit:  # else they are fetched when they are looked at
            for camera, span in videos.items():
                check_readable(span.path, f"episode {summary.index}, camera {camera!r}")
        wanted_images = [camera for camera in summary.image_cameras if camera in cameras]
        return EpisodeRecord(
            index=summary.index,
            task=summary.task,
            timestamps_seconds=timestamps,
            fps=self._fps,
            data_path=summary.data_path,
            dataset_from_index=summary.dataset_from_index,
            videos=videos,
            images=find_image_spans(self._root, rows, summary.index, wanted_images),
        )


def read_episode(
    root: Path, info: Mapping[str, Any], summary: EpisodeSummary, cameras: Sequence[CameraKey]
) -> EpisodeRecord:
    """Read a single episode: see ``EpisodeReader``, which is for several."""
    return EpisodeReader(root, info).read(summary, cameras)


def _metadata_rows(root: Path, cameras: Sequence[CameraKey]) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = sorted((root / EPISODES_FOLDER).glob("**/*.parquet"))
    if not files:
        raise DatasetError(
            f"{root / EPISODES_FOLDER} holds no parquet file; LeRobot v3.0 lists the episodes there"
        )
    video_columns = [f"videos/{camera}/{field}" for camera in cameras for field in _VIDEO_FIELDS]
    for path in files:
        check_readable(path, "the list of episodes")
        for row in _read_rows(path, [*_PLAIN_COLUMNS, *video_columns]):
            yield path, row


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            present = set(file.schema_arrow.names)
            missing = [column for column in columns if column not in present]
            if missing:
                raise DatasetError(
                    f"{path}: the columns {missing} are missing; expected a file of LeRobot v3.0"
                )
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error


class _Files:
    """The paths of a dataset's files, each made once: a file may hold ten thousand episodes."""

    def __init__(self, root: Path, info: Mapping[str, Any]) -> None:
        self.data = cache(partial(data_file, root, info))
        self.video = cache(partial(video_file, root, info))


def _summary(files: _Files, row: Mapping[str, Any], features: Features, path: Path) -> EpisodeSummary:
    counts = [name for name in _PLAIN_COLUMNS if name != "tasks"]
    bad = [name for name in counts if type(row[name]) is not int or row[name] < 0]
    if bad:
        raise DatasetError(
            f"{path}: episode {row['episode_index']!r} has {bad[0]!r} = {row[bad[0]]!r}, "
            "expected a number from 0"
        )
    index, length = EpisodeIndex(row["episode_index"]), row["length"]
    if length == 0 or row["dataset_to_index"] - row["dataset_from_index"] != length:
        raise DatasetError(
            f"{path}: episode {index} has length {length}, but its rows go from {row['dataset_from_index']} "
            f"to {row['dataset_to_index']}"
        )
    tasks = row["tasks"]
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DatasetError(f"{path}: episode {index} has 'tasks' = {tasks!r}, expected a list of texts")
    return EpisodeSummary(
        index=index,
        tasks=tuple(tasks),
        length=length,
        data_path=files.data(row["data/chunk_index"], row["data/file_index"]),
        dataset_from_index=row["dataset_from_index"],
        videos={
            camera: _span(files, row, camera, path)
            for camera in features.cameras
            if camera not in features.image_cameras
        },
        image_cameras=tuple(camera for camera in features.cameras if camera in features.image_cameras),
    )


def _span(files: _Files, row: Mapping[str, Any], camera: CameraKey, path: Path) -> VideoSpan:
    chunk, file, start, end = (row[f"videos/{camera}/{field}"] for field in _VIDEO_FIELDS)
    whole = all(type(number) is int and number >= 0 for number in (chunk, file))
    timed = all(isinstance(time, int | float) and math.isfinite(time) for time in (start, end))
    if not whole or not timed or not 0 <= start < end:
        raise DatasetError(
            f"{path}: episode {row['episode_index']}, camera {camera!r}: chunk {chunk!r}, file {file!r}, "
            f"from {start!r} to {end!r} s; expected numbers from 0, and an end after the start"
        )
    return VideoSpan(
        path=files.video(camera, chunk, file),
        from_timestamp_seconds=float(start),
        to_timestamp_seconds=float(end),
    )


def as_ranges(indices: Sequence[int]) -> str:
    """Sorted numbers as text: ``0-5, 7``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs) or "(none)"
