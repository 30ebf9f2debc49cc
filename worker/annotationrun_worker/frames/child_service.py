"""Requests to living child processes: one at a time each, replaced if it dies, killed if it is silent."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    FrameDecodeError,
    FrameMissingError,
    StorageError,
)
from annotationrun_worker.frames.child_process import ChildDiedError, ChildProcess, ChildTimeoutError

_LOG = logging.getLogger(__name__)

FRAME_BYTES_LIMIT = 256 * 1024 * 1024
"""Larger than any camera's frame (8K RGB has 100 MB): more than this is a broken answer."""

TRIES = 2
"""A child that died may have been killed for a reason of its own: one more try, on a fresh one."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Errand:
    """One request, and what an error says of it."""

    where: str
    """Whose frames, for the errors."""
    path: Path
    """The file that it is about."""
    request: Mapping[str, object]


@dataclass(slots=True, eq=False)
class _Place:
    """Room for one child."""

    child: ChildProcess | None = None
    last_path: Path | None = None
    """What the child served last, and has open."""


class ChildService:
    """Child processes that run ``module``; safe for any number of threads.

    A child that dies in mid-request is replaced once; one that gives no sign of life for ``timeout_seconds``
    is killed, and the request fails.
    """

    def __init__(self, module: str, timeout_seconds: float, children: int = 1) -> None:
        """At most ``children`` at once; none starts before the first request."""
        self._module = module
        self._timeout_seconds = timeout_seconds
        self._places = [_Place() for _ in range(children)]
        self._idle = list(self._places)
        self._changed = threading.Condition()
        self._closed = False

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        children = [place.child for place in self._places]
        return [child.pid for child in children if child is not None]

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._closed

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        self._closed = True
        for place in self._places:
            child = place.child
            if child is not None:
                child.kill()
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._places))
            for place in self._places:
                _drop_child(place)

    def ask(self, errand: Errand, receive: Callable[[ChildProcess], Answer]) -> Answer:
        """Send the request to a child and give what ``receive`` makes of its answer.

        Raises:
            FrameMissingError: there is no frame near the time asked for.
            FrameDecodeError: the child refuses, or has died twice, or is silent.
            ConfigurationError: the child's library is not installed.
            StorageError: the child can't write its file.
        """
        line = json.dumps(errand.request).encode()
        with self._borrowed(errand.path) as place:
            for tries_left in reversed(range(TRIES)):
                if self._closed:
                    break
                if place.child is None:
                    place.child = ChildProcess(self._module, self._timeout_seconds)
                try:
                    place.child.send(line)
                    return receive(place.child)
                except _RefusedAnswerError as refusal:
                    _raise_refusal(refusal, errand, place.child.stderr_tail())
                except ChildTimeoutError as error:
                    place.child.kill()
                    raise FrameDecodeError(
                        f"{errand.where}: no answer from the decoder for {self._timeout_seconds:g} s; "
                        f"{_drop_child(place)}"
                    ) from error
                except MisfitError as error:
                    _drop_child(place)
                    raise FrameDecodeError(f"{errand.where}: {error}") from error
                except ChildDiedError as error:
                    end = _drop_child(place)
                    if not tries_left and not self._closed:
                        raise FrameDecodeError(
                            f"{errand.where}: the decoder's process died {TRIES} times ({end}); "
                            "check the file"
                        ) from error
                    _LOG.warning("%s: the decoder's process died (%s); trying once more", errand.where, end)
                except BaseException:
                    _drop_child(place)  # its answer is half read: the rest would be taken for the next one
                    raise
        raise FrameDecodeError(f"{errand.where}: the decoder is closed")

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator[_Place]:
        """A place for this thread alone; if possible the one whose child has ``path`` open."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            place = next((p for p in self._idle if p.last_path == path), None)
            # Else one that runs already, before another child is started.
            place = place or next((p for p in self._idle if p.child is not None), self._idle[0])
            self._idle.remove(place)
        place.last_path = path
        try:
            yield place
        finally:
            with self._changed:
                self._idle.append(place)
                self._changed.notify_all()


class MisfitError(Exception):
    """The child's answer is none that frames can be made of."""


class _RefusedAnswerError(Exception):
    """The child is well, and says why the request can't be carried out."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def receive_line(child: ChildProcess, expected: str) -> Mapping[str, Any]:
    """The next line of the answer, which is ``expected`` (or an error)."""
    answer = json.loads(child.receive_line())
    if "error" in answer:
        raise _RefusedAnswerError(answer["error"]["kind"], answer["error"]["message"])
    content: Mapping[str, Any] = answer[expected]
    return content


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


def _drop_child(place: _Place) -> str:
    """Free the child; how it ended, with the end of its log."""
    child, place.child = place.child, None
    if child is None:
        return "it had ended"
    end = child.close()
    tail = child.stderr_tail()
    return f"{end}; it wrote: {tail}" if tail else end


def _raise_refusal(refusal: _RefusedAnswerError, errand: Errand, tail: str) -> NoReturn:
    if refusal.kind == "open":
        try:
            check_readable(errand.path, errand.where)
        except DatasetError as error:
            raise FrameDecodeError(str(error)) from refusal
    if refusal.kind == "not_installed":
        raise ConfigurationError(str(refusal)) from refusal
    if refusal.kind == "write":
        raise StorageError(f"{errand.where}, file {str(errand.path)!r}: {refusal}") from refusal
    kind = FrameMissingError if refusal.kind == "no_frame" else FrameDecodeError
    log = f"; the decoder wrote: {tail}" if tail else ""
    raise kind(f"{errand.where}: {refusal}{log}") from refusal
