"""What an episode's language columns hold before the run: whose rows, and which subtasks."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from annotationrun_worker.annotate.context import SubtaskStart
from annotationrun_worker.dataset.records import EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.existing import AnnotatedEpisode, read_annotated
from annotationrun_worker.merge.replacement import modules_of
from annotationrun_worker.rows import ModuleName


@dataclass(frozen=True, slots=True)
class ExistingRows:
    """Rows of one episode that the dataset has already."""

    modules: frozenset[ModuleName] = frozenset()
    """Modules that own at least one of them."""
    subtasks: Sequence[SubtaskStart] = ()
    """In order."""


@dataclass(frozen=True, slots=True)
class ExistingRowsReader:
    """Reads each data file once, when its first episode is asked for; safe for any number of threads."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _by_file: dict[Path, dict[int, ExistingRows]] = field(default_factory=dict)

    def read(self, episode: EpisodeRecord) -> ExistingRows:
        """The rows of ``episode``; none where its file has no language columns.

        Raises:
            DatasetError: the file can't be read, or a subtask stands at no frame's time.
        """
        with self._lock:
            path = episode.data_path
            if path not in self._by_file:
                self._by_file[path] = {found.index: _rows_of(found, path) for found in read_annotated(path)}
            return self._by_file[path].get(int(episode.index), ExistingRows())


def _rows_of(episode: AnnotatedEpisode, path: Path) -> ExistingRows:
    rows = sorted(
        (row.timestamp_seconds, row.content)
        for row in episode.language.persistent
        if row.style == "subtask" and row.content and row.timestamp_seconds is not None
    )
    subtasks = []
    for seconds, text in rows:
        frames = np.flatnonzero(episode.timestamps_seconds == np.float32(seconds))
        if len(frames) == 0:
            raise DatasetError(
                f"{path}, episode {EpisodeIndex(episode.index)}: the subtask {text!r} stands at {seconds} s, "
                "which is no frame's time; repair it, or enable the module plan"
            )
        subtasks.append(SubtaskStart(int(frames[0]), text))
    return ExistingRows(modules_of(episode.language), tuple(subtasks))
