"""What waits for a decoder's children, and who takes what next."""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.frames.decode_plan import Stretch, shares_work
from annotationrun_worker.frames.living_child import LivingChild

OPEN_FILE_CALLS = 8
"""A call for a file that a child has open is served before calls that came so much earlier."""

SHARED_AT_ONCE = 16
"""So many callers' frames are decoded in one go at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A caller's frames of one stretch, and where they belong."""

    stretch: Stretch
    targets_seconds: NDArray[np.float64]
    tolerances_seconds: NDArray[np.float64]
    frames: NDArray[np.uint8]
    """Room for the frames, or tiles, of the whole call: (targets, height, width, 3)."""
    frame_size: tuple[int, int]
    """(width, height) of a whole frame."""

    @property
    def part(self) -> slice:
        """Of the call's frames."""
        return slice(self.stretch.start, self.stretch.stop)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Something that a child is to do; ``result`` tells how it went."""

    call: int
    """Rises from call to call."""
    path: Path
    where: Callable[[], str]
    """Whose it is, for the errors."""
    work: Frames | Callable[[LivingChild], object]
    result: "Future[object]" = field(default_factory=Future)

    def can_join(self, other: "Task") -> bool:
        """Whether both are frames of one file, some of which need the same ones decoded."""
        if not isinstance(self.work, Frames) or not isinstance(other.work, Frames):
            return False
        same_size = (
            self.work.frames.shape[1:] == other.work.frames.shape[1:]
            and self.work.frame_size == other.work.frame_size
        )
        return same_size and self.path == other.path and shares_work(self.work.stretch, other.work.stretch)


class DecodeQueue:
    """The tasks that wait; safe for any number of threads."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """Number of tasks that wait."""
        with self._changed:
            return len(self._tasks)

    def put(self, tasks: Collection[Task]) -> None:
        """Add tasks, in the order in which they are best carried out. If closed: cancel them."""
        with self._changed:
            if self._closed:
                for task in tasks:
                    task.result.cancel()
                return
            self._tasks += tasks
            self._changed.notify(len(tasks))

    def take(self, open_paths: Collection[Path]) -> list[Task]:
        """Wait for the next task of a child that has these files open; none when closed.

        Frames come together with those of other callers that share work with them.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if self._closed:
                    return []
                taken = [
                    task for task in self._chosen(open_paths) if task.result.set_running_or_notify_cancel()
                ]
                if taken:
                    return taken

    def close(self) -> None:
        """Cancel what waits; whoever takes gets nothing."""
        with self._changed:
            self._closed = True
            for task in self._tasks:
                task.result.cancel()
            self._tasks.clear()
            self._changed.notify_all()

    def _chosen(self, open_paths: Collection[Path]) -> list[Task]:
        first = min(
            self._tasks,
            # What is not about frames is short, and another call may wait for it to be planned.
            key=lambda task: (
                isinstance(task.work, Frames),
                task.call - OPEN_FILE_CALLS * (task.path in open_paths),
            ),
        )
        chosen = [first, *(task for task in self._tasks if task is not first and first.can_join(task))]
        chosen = chosen[:SHARED_AT_ONCE]
        self._tasks = [task for task in self._tasks if task not in chosen]
        return chosen
