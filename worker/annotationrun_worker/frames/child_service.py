"""Requests to living child processes, each of which serves one at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import FRAME_PIXELS_LIMIT
from annotationrun_worker.frames.child_process import ChildProcess
from annotationrun_worker.frames.living_child import Answer, Errand, LivingChild, MisfitError, receive_line

FRAME_BYTES_LIMIT = 3 * FRAME_PIXELS_LIMIT
"""More than this is a broken answer."""


@dataclass(slots=True, eq=False)
class _Place:
    """A child, and what it has open."""

    child: LivingChild
    last_path: Path | None = None


class ChildService:
    """Child processes that run ``module``; safe for any number of threads.

    A child that dies in mid-request is replaced once; one that gives no sign of life for ``timeout_seconds``
    is killed, and the request fails.
    """

    def __init__(self, module: str, timeout_seconds: float, children: int = 1) -> None:
        """At most ``children`` at once; none starts before the first request."""
        self._places = [_Place(LivingChild(module, timeout_seconds)) for _ in range(children)]
        self._idle = list(self._places)
        self._changed = threading.Condition()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [pid for place in self._places if (pid := place.child.pid) is not None]

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        for place in self._places:
            place.child.close()
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._places))
            for place in self._places:
                place.child.drop()

    def ask(self, errand: Errand, receive: Callable[[ChildProcess], Answer]) -> Answer:
        """Send the request to a child; see ``LivingChild.ask``."""
        with self._borrowed(errand.path) as place:
            return place.child.ask(errand, receive)

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator[_Place]:
        """A place for this thread alone; if possible the one whose child has ``path`` open."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            place = next((p for p in self._idle if p.last_path == path), None)
            # Else one that runs already, before another child is started.
            place = place or next((p for p in self._idle if p.child.pid is not None), self._idle[0])
            self._idle.remove(place)
        place.last_path = path
        try:
            yield place
        finally:
            with self._changed:
                self._idle.append(place)
                self._changed.notify_all()


def receive_frames(child: ChildProcess, count: int) -> NDArray[np.uint8]:
    """``count`` frames of one size: uint8 of shape (count, height, width, 3), RGB."""
    header = receive_line(child, "frame")
    width, height = header["width"], header["height"]
    if not 0 < height * width * 3 <= FRAME_BYTES_LIMIT:
        raise MisfitError(f"a frame of {width} x {height} pixels is out of bounds")
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        if number:
            header = receive_line(child, "frame")
        if (header["width"], header["height"]) != (width, height):
            raise MisfitError(
                f"the size changes, from {width} x {height} to {header['width']} x {header['height']} "
                f"pixels at {header['place']}"
            )
        child.receive_into(memoryview(frames[number]).cast("B"))
    receive_line(child, "done")
    return frames
