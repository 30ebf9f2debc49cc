"""Episodes, read one by one, and whether what is said of them agrees.

Does what is said of an episode agree? Its timestamps, its length, and its span of each video. Pure.

LeRobot finds a frame at ``from_timestamp`` of its camera plus ``timestamp`` of its row (lerobot 0.6.1,
``DatasetReader``). Where the two contradict each other by more than half a frame, that is a frame of another
time, or of another episode.

Episodes: what ``meta/episodes`` says of them, and the episodes themselves, read one by one.
"""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.data_rows import DataFileCache, DataFileRows, find_image_spans
from annotationrun_worker.dataset.layout import (
    EPISODES_FOLDER,
    DatasetFiles,
    FolderFiles,
    check_readable,
    data_file,
    video_file,
)
from annotationrun_worker.dataset.metadata import check_task_lengths, read_features, read_tasks
from annotationrun_worker.dataset.parquet_files import (
    READ_ERRORS,
    ROWS_LIMIT,
    fitting_rows,
    open_parquet,
    return_freed_memory,
)
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, EpisodeRecord, Features, VideoSpan
from annotationrun_worker.errors import ConfigurationError, DatasetError, UnknownCameraError

SLACK_SECONDS = 1e-4
"""Lets float32 seconds of a long episode, and what exporters round, pass."""


def half_frame_seconds(fps: float) -> float:
    """The largest contradiction that still means one frame, in seconds."""
    return 0.5 / fps + SLACK_SECONDS


def timestamps_fault(timestamps_seconds: NDArray[np.float32], fps: float) -> str | None:
    """What contradicts the frame rate in an episode's timestamps; ``None``: nothing.

    Frame ``i`` has to stand at ``i / fps`` of the episode's own time, give or take half a frame.

    Args:
        timestamps_seconds: shape (frames,), float32.
        fps: frames a second.
    """
    expected = np.arange(len(timestamps_seconds)) / fps
    off = np.abs(timestamps_seconds.astype(np.float64) - expected)
    wrong = np.flatnonzero(off > half_frame_seconds(fps))
    if not len(wrong):
        return None
    row = int(wrong[0])
    return (
        f"row {row}: timestamp is {timestamps_seconds[row]:.6f} s, but frame {row} of an episode stands at "
        f"{expected[row]:.6f} s ({fps:g} frames a second); timestamps count from the start of each episode"
    )


def span_fault(length: int, fps: float, span: VideoSpan) -> str | None:
    """What contradicts an episode's number of frames in its span of a video; ``None``: nothing."""
    told = span.to_timestamp_seconds - span.from_timestamp_seconds
    if abs(told - length / fps) <= half_frame_seconds(fps):
        return None
    return (
        f"its span of {str(span.path)!r} is {told:.6f} s long (from_timestamp "
        f"{span.from_timestamp_seconds:.6f}, to_timestamp {span.to_timestamp_seconds:.6f}), but its {length} "
        f"frames take {length / fps:.6f} s at {fps:g} frames a second"
    )


def overlap_faults(
    spans: Iterable[tuple[EpisodeIndex, CameraKey, VideoSpan]], fps: float
) -> Mapping[tuple[EpisodeIndex, CameraKey], str]:
    """Episodes that claim the same part of a video: which of the two is wrong, nobody can tell.

    Spans that are equal are no contradiction: an episode may be listed twice on purpose.
    """
    by_file: dict[tuple[CameraKey, Path], list[tuple[float, float, EpisodeIndex]]] = {}
    for index, camera, span in spans:
        places = by_file.setdefault((camera, span.path), [])
        places.append((span.from_timestamp_seconds, span.to_timestamp_seconds, index))
    faults: dict[tuple[EpisodeIndex, CameraKey], str] = {}
    for (camera, path), places in by_file.items():
        for first, second in pairwise(sorted(places)):
            if first[:2] == second[:2] or first[1] - second[0] <= half_frame_seconds(fps):
                continue
            text = (
                f"episode {first[2]} lies from {first[0]:.6f} to {first[1]:.6f} s of {str(path)!r}, and "
                f"episode {second[2]} from {second[0]:.6f} to {second[1]:.6f} s: they overlap by more than "
                "half a frame"
            )
            faults.setdefault((first[2], camera), text)
            faults.setdefault((second[2], camera), text)
    return faults


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
_NUMBER_COLUMNS = tuple(name for name in _PLAIN_COLUMNS if name not in {"episode_index", "tasks"})
_CHECKED_COLUMNS = ("length", "dataset_from_index", "dataset_to_index")
"""Without these an episode can't be read; a file's number is but a hint."""
_VIDEO_FIELDS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
EPISODES_LIMIT = 500_000
"""Of a dataset; each takes one or two kilobytes of memory."""
_BATCH_ROWS = 1000
"""Rows of ``meta/episodes`` that are Python objects at once."""


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """One row of ``meta/episodes``: where an episode lies; nothing of its rows is read yet."""

    index: EpisodeIndex
    tasks: tuple[str, ...]
    """What ``meta/episodes`` says they are; the rows and ``meta/tasks.parquet`` say what they really are."""
    length: int
    """Number of frames."""
    data_path: Path
    """The parquet file that shall hold the episode's rows, absolute: a hint, which a converter of LeRobot's
    own gave wrongly."""
    dataset_from_index: int
    """The dataset-wide index of the episode's first frame."""
    videos: Mapping[CameraKey, VideoSpan]
    """The cameras stored as videos, in the order of ``info.json``."""
    image_cameras: tuple[CameraKey, ...]
    """The cameras stored as pictures in the rows, in the order of ``info.json``."""
    fault: str | None = None
    """Why it can't be read, whatever camera is looked at; ``None``: nothing is known against it."""
    camera_faults: Mapping[CameraKey, str] = field(default_factory=dict)
    """Why it can't be read with these cameras."""

    @property
    def task(self) -> str:
        """The tasks joined with ``"; "``; may be empty."""
        return TASK_SEPARATOR.join(self.tasks)

    def fault_with(self, cameras: Iterable[CameraKey]) -> str | None:
        """Why it can't be read with ``cameras``, as far as ``meta/episodes`` tells; ``None``: nothing."""
        faults = (self.fault, *(self.camera_faults.get(camera) for camera in cameras))
        return next((fault for fault in faults if fault is not None), None)


def list_episodes(root: Path, info: Mapping[str, Any]) -> list[EpisodeSummary]:
    """Read ``meta/episodes`` (its needed columns) and return the episodes in order of their index.

    What is wrong with a single episode stands in its summary.

    Raises:
        DatasetError: no such files, columns missing, a row without an index, an episode that is there twice,
            or another number of episodes than ``info`` says.
    """
    root = root.absolute()
    features = read_features(info)
    by_index: dict[EpisodeIndex, EpisodeSummary] = {}
    video_cameras = [camera for camera in features.cameras if camera not in features.image_cameras]
    files = _Files(root, info)
    for path, row in _metadata_rows(root, info, video_cameras):
        summary = _summary(files, row, features, path)
        if summary.index in by_index:
            raise DatasetError(f"{path}: episode {summary.index} is there twice in meta/episodes")
        by_index[summary.index] = summary
    return_freed_memory()
    _note_overlaps(by_index, features.fps)
    return [by_index[index] for index in sorted(by_index)]


def _note_overlaps(by_index: dict[EpisodeIndex, EpisodeSummary], fps: float) -> None:
    spans = (
        (index, camera, span)
        for index, summary in by_index.items()
        for camera, span in summary.videos.items()
        if camera not in summary.camera_faults
    )
    for (index, camera), fault in overlap_faults(spans, fps).items():
        summary = by_index[index]
        text = f"episode {index}, camera {camera!r}: {fault}"
        by_index[index] = replace(summary, camera_faults={**summary.camera_faults, camera: text})


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
        self._files = DataFileCache(most_rows=whole_number(info.get("total_frames")))
        self._found: dict[int, Path] = {}
        """By episode, the data file that holds its rows, of those that were looked into."""
        self._looked_into: set[Path] = set()
        self._data_files = cache(self._dataset.data_files)
        self.tasks = cache(partial(read_tasks, root))
        """The text of each task, by ``task_index``; raises DatasetError where it can't be read."""

    def read(self, summary: EpisodeSummary, cameras: Sequence[CameraKey]) -> EpisodeRecord:
        """Read the timestamps and the task of one episode, and check that ``cameras`` can be read.

        Of the data file only four columns are read. With no cameras given no video file is touched;
        ``videos`` and ``images`` of the result hold the given ones, in the order of ``info.json``.

        Raises:
            DatasetError: a file is missing or unreadable, or what is said of the episode contradicts itself:
                its rows, their frame_index, timestamps and task, its length, and its span of each video.
            UnknownCameraError: a camera that the dataset does not have.
        """
        known = [*summary.videos, *summary.camera_faults, *summary.image_cameras]
        unknown = [camera for camera in cameras if camera not in known]
        if unknown:
            raise UnknownCameraError(
                f"the dataset at {str(self._root)!r} has no camera {unknown[0]!r}; its cameras are {known}"
            )
        fault = summary.fault_with(cameras)
        if fault is not None:
            raise DatasetError(fault)
        rows = self.rows_of(summary)
        timestamps = rows.timestamps_of(summary.index, summary.length)
        fault = timestamps_fault(timestamps, self._fps)
        if fault is not None:
            raise DatasetError(f"episode {summary.index} in {str(rows.path)!r}, {fault}")
        videos = {camera: span for camera, span in summary.videos.items() if camera in cameras}
        if not self._dataset.commit:  # else they are fetched when they are looked at
            for camera, span in videos.items():
                check_readable(span.path, f"episode {summary.index}, camera {camera!r}")
        wanted_images = [camera for camera in summary.image_cameras if camera in cameras]
        return EpisodeRecord(
            index=summary.index,
            task=TASK_SEPARATOR.join(self.tasks_of(summary, rows)),
            timestamps_seconds=timestamps,
            fps=self._fps,
            data_path=rows.path,
            dataset_from_index=summary.dataset_from_index,
            videos=videos,
            images=find_image_spans(self._root, rows, summary.index, wanted_images),
        )

    def rows_of(self, summary: EpisodeSummary) -> DataFileRows:
        """The rows of the data file that holds the episode: where ``meta/episodes`` says, else another one.

        Raises:
            DatasetError: no data file holds it, or one can't be read.
        """
        index, what = int(summary.index), f"the rows of episode {summary.index}"
        if index in self._found:
            return self.read_file(self._found[index], what)
        for path in self._nearest_first(summary.data_path):
            if path not in self._looked_into:
                self.read_file(path, what)
            if index in self._found:  # by now, or before: another thread may have read that file
                return self.read_file(self._found[index], what)
        check_readable(summary.data_path, what)
        raise DatasetError(
            f"episode {summary.index}: no data file holds a row of it; meta/episodes puts it into "
            f"{str(summary.data_path)!r}"
        )

    def tasks_of(self, summary: EpisodeSummary, rows: DataFileRows) -> tuple[str, ...]:
        """The tasks that the episode's rows name; in the order of ``meta/episodes`` if these are the same.

        Raises:
            DatasetError: ``meta/tasks.parquet`` can't be read, or lacks one.
        """
        tasks = rows.tasks_of(summary.index, self.tasks())
        return summary.tasks if sorted(set(summary.tasks)) == sorted(tasks) else tasks

    def read_file(self, path: Path, what: str) -> DataFileRows:
        """The rows of a data file; ``what`` it is for stands in the error where it is missing.

        Raises:
            DatasetError: it can't be read.
        """
        with self._dataset.using(path):
            rows = self._files.rows_of(path, what)
        if path not in self._looked_into:
            for index in rows.blocks:
                self._found.setdefault(index, path)
            self._looked_into.add(path)
        return rows

    def _nearest_first(self, hint: Path) -> Iterator[Path]:
        """The data files: the one of the hint, then those next to it."""
        paths = self._data_files()
        place = bisect.bisect_left(paths, hint)
        for number in sorted(range(len(paths)), key=lambda number: abs(number - place)):
            yield paths[number]


def read_episode(
    root: Path, info: Mapping[str, Any], summary: EpisodeSummary, cameras: Sequence[CameraKey]
) -> EpisodeRecord:
    """Read a single episode: see ``EpisodeReader``, which is for several."""
    return EpisodeReader(root, info).read(summary, cameras)


def _metadata_rows(
    root: Path, info: Mapping[str, Any], cameras: Sequence[CameraKey]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = sorted((root / EPISODES_FOLDER).glob("**/*.parquet"))
    if not files:
        raise DatasetError(
            f"{root / EPISODES_FOLDER} holds no parquet file; LeRobot v3.0 lists the episodes there"
        )
    video_columns = [f"videos/{camera}/{field}" for camera in cameras for field in _VIDEO_FIELDS]
    _check_count(root, files, info)
    for path in files:
        for row in _read_rows(path, [*_PLAIN_COLUMNS, *video_columns]):
            yield path, row


def _check_count(root: Path, files: Sequence[Path], info: Mapping[str, Any]) -> None:
    """Compare what the footers say with ``info``, before a row is read."""
    found = 0
    for path in files:
        check_readable(path, "the list of episodes")
        with open_parquet(path) as file:
            found += file.metadata.num_rows
    expected = info.get("total_episodes", found)
    if expected != found:
        raise DatasetError(
            f"{root}: meta/info.json says {repr(expected)[:100]} episodes, meta/episodes holds {found}; "
            "is the download complete?"
        )
    if found > EPISODES_LIMIT:
        raise DatasetError(f"{root}: meta/episodes lists {found} episodes, expected at most {EPISODES_LIMIT}")


def _read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        with open_parquet(path) as file:
            present = set(file.schema_arrow.names)
            missing = [column for column in columns if column not in present]
            if missing:
                raise DatasetError(
                    f"{path}: the columns {missing} are missing; expected a file of LeRobot v3.0"
                )
            for group in range(file.num_row_groups):
                fitting = fitting_rows(file, group, columns, _BATCH_ROWS, path)
                for batch in file.iter_batches(
                    fitting, row_groups=[group], columns=list(columns), use_threads=False
                ):
                    check_task_lengths(batch.column("tasks"), path)
                    yield from batch.to_pylist()
    except READ_ERRORS as error:
        raise DatasetError(f"{path} can't be read as parquet: {error}") from error


class _Files:
    """The paths of a dataset's files, each made once: a file may hold ten thousand episodes."""

    def __init__(self, root: Path, info: Mapping[str, Any]) -> None:
        self.data = cache(partial(data_file, root, info))
        self.video = cache(partial(video_file, root, info))


def _summary(files: _Files, row: Mapping[str, Any], features: Features, path: Path) -> EpisodeSummary:
    index = whole_number(row["episode_index"])
    if index is None:
        raise DatasetError(
            f"{path}: a row has 'episode_index' = {row['episode_index']!r}, expected a number from 0"
        )
    numbers = {name: whole_number(row[name]) for name in _NUMBER_COLUMNS}
    length = numbers["length"] or 0
    videos: dict[CameraKey, VideoSpan] = {}
    camera_faults: dict[CameraKey, str] = {}
    for camera in features.cameras:
        if camera in features.image_cameras:
            continue
        span = _span(files, row, camera)
        fault = _bad_span(row, camera) if span is None else span_fault(length, features.fps, span)
        if span is not None:
            videos[camera] = span
        if fault is not None:
            camera_faults[camera] = f"{path}: episode {index}, camera {camera!r}: {fault}"
    tasks = row["tasks"]
    return EpisodeSummary(
        index=EpisodeIndex(index),
        tasks=tuple(task for task in tasks if isinstance(task, str)) if isinstance(tasks, list) else (),
        length=min(max(length, 1), ROWS_LIMIT),
        data_path=files.data(numbers["data/chunk_index"] or 0, numbers["data/file_index"] or 0),
        dataset_from_index=numbers["dataset_from_index"] or 0,
        videos=videos,
        image_cameras=tuple(camera for camera in features.cameras if camera in features.image_cameras),
        fault=_bad_numbers(row, numbers, index, path),
        camera_faults=camera_faults,
    )


def _bad_numbers(
    row: Mapping[str, Any], numbers: Mapping[str, int | None], index: int, path: Path
) -> str | None:
    bad = next((name for name in _CHECKED_COLUMNS if numbers[name] is None), None)
    if bad is not None:
        return f"{path}: episode {index} has {bad!r} = {row[bad]!r}, expected a number from 0"
    length, start, end = (numbers[name] or 0 for name in _CHECKED_COLUMNS)
    if length > ROWS_LIMIT:
        return (
            f"{path}: episode {index} has length {length}, but no data file has more than {ROWS_LIMIT} rows"
        )
    if length == 0 or end - start != length:
        return f"{path}: episode {index} has length {length}, but its rows go from {start} to {end}"
    return None


def whole_number(value: object) -> int | None:
    """A number from 0 that int64 holds, a float where pandas made it one; ``None``: something else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 2**63 else None


def _span(files: _Files, row: Mapping[str, Any], camera: CameraKey) -> VideoSpan | None:
    chunk, file = (whole_number(row[f"videos/{camera}/{name}"]) for name in _VIDEO_FIELDS[:2])
    start, end = (row[f"videos/{camera}/{name}"] for name in _VIDEO_FIELDS[2:])
    timed = all(isinstance(time, int | float) and math.isfinite(time) for time in (start, end))
    if chunk is None or file is None or not timed or not 0 <= start < end:
        return None
    return VideoSpan(files.video(camera, chunk, file), float(start), float(end))


def _bad_span(row: Mapping[str, Any], camera: CameraKey) -> str:
    chunk, file, start, end = (row[f"videos/{camera}/{name}"] for name in _VIDEO_FIELDS)
    return (
        f"chunk {chunk!r}, file {file!r}, from {start!r} to {end!r} s; expected numbers from 0, and an end "
        "after the start"
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
