"""Child processes that answer requests, seen from within.

The frame of every child process of this package: requests in, answers out, until the input ends.

A request is a JSON line on standard input. The answer is one or more JSON lines on standard output, the last
of which is one of::

    {"done": {...}}                                     the request is carried out
    {"error": {"kind": "decode", "message": "..."}}     it is not; the child waits for the next one

Between these lines it may write ``{"alive": {}}``, for as long as it comes forward (``SignsOfLife``).

A child dies with its parent (``bound_process``). A crash of a library takes the child and nothing else; so
does a request that takes more memory or CPU time than any camera's.

The files that a child process used last, kept open.
"""

import json
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.bound_process import CHILD_MEMORY_BYTES, allow_cpu_seconds, allow_memory_bytes
from annotationrun_worker.video.decode_plan import FileIndex
from annotationrun_worker.video.tiles import TileSize, tile_of

Request = Mapping[str, Any]

_OUT_OF_MEMORY = (
    "it would take more memory than the frames of any camera; is the file damaged, or made to do harm?"
)

REQUEST_CPU_SECONDS = 1800
"""The longest group that a camera writes, an hour of 4K, is decoded in that time."""

ALIVE_SECONDS = 0.5
"""Between two signs of life: much less than any time limit."""


class RefusedError(Exception):
    """What was asked can't be had; ``kind`` is a word for programs, the text is for people.

    Kinds: ``open`` (the file can't be opened), ``read``, ``decode`` (damaged, or nothing that the library
    knows), ``no_frame`` (no frame near the time asked for), ``size`` (frames of a size that was not foreseen;
    ``details`` tell it), ``write``, ``not_installed``, ``memory``.
    """

    def __init__(self, kind: str, message: str, **details: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.details = details


def serve(
    carry_out: Callable[[Request, BinaryIO], Mapping[str, object]], memory_bytes: int = CHILD_MEMORY_BYTES
) -> None:
    """Serve requests until the input ends; ``carry_out`` returns what goes into ``done``.

    ``memory_bytes`` is what the process may map, the code of its libraries included.
    """
    allow_memory_bytes(memory_bytes)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    # The answers get a descriptor of their own; what a library prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if isinstance(request, int):
            continue  # of the request before: how many of its frames were taken
        allow_cpu_seconds(REQUEST_CPU_SECONDS)
        try:
            result = carry_out(request, answers)
        except RefusedError as error:
            send(answers, {"error": {"kind": error.kind, "message": str(error), **error.details}})
        except MemoryError:
            send(answers, {"error": {"kind": "memory", "message": _OUT_OF_MEMORY}})
        else:
            send(answers, {"done": result})
        answers.flush()


def send(answers: BinaryIO, answer: Mapping[str, object]) -> None:
    """Write one line of an answer."""
    answers.write(json.dumps(answer).encode() + b"\n")


class SignsOfLife:
    """Tells the parent that a request that takes long is being carried out.

    Only what comes forward tells so: a child that hangs must be found out.
    """

    def __init__(self) -> None:
        self._answers: BinaryIO | None = None
        self._told_seconds = 0.0

    def begin(self, answers: BinaryIO) -> None:
        """A request begins, answered to ``answers``."""
        self._answers = answers
        self._told_seconds = time.monotonic()

    def progress(self) -> None:
        """Something was done of the request: a packet read, a frame decoded."""
        now = time.monotonic()
        if self._answers is not None and now - self._told_seconds >= ALIVE_SECONDS:
            self._told_seconds = now
            send(self._answers, {"alive": {}})
            self._answers.flush()


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame."""

    place: str
    """Where it was, for people: ``3.367 s of the file``."""
    width: int
    height: int
    rgb: NDArray[np.uint8]
    """(height, width, 3)."""


def check_size(picture: Picture, size: TileSize) -> None:
    """Refuse a frame that the tiles, or the room for it, are not meant for."""
    if (picture.width, picture.height) != (size.frame_width, size.frame_height):
        raise RefusedError(
            "size",
            f"the size changes, from {size.frame_width} x {size.frame_height} to {picture.width} x "
            f"{picture.height} pixels at {picture.place}",
            width=picture.width,
            height=picture.height,
        )


def sized(pictures: Iterable[Picture], size: TileSize) -> Iterator[Picture]:
    """The frames as they are, which have to be of that size."""
    for picture in pictures:
        check_size(picture, size)
        yield picture


def tiles(pictures: Iterable[Picture], size: TileSize) -> Iterator[Picture]:
    """The tiles of frames."""
    for picture in pictures:
        check_size(picture, size)
        yield Picture(picture.place, size.width, size.height, tile_of(picture.rgb, size.width))


def send_index(answers: BinaryIO, index: FileIndex) -> None:
    """Answer with a line ``{"index": {"keys": 9, "width": 320, ..}}`` and two tables, 8 bytes an entry."""
    line = {
        "keys": len(index.key_seconds),
        "width": index.width,
        "height": index.height,
        "frame_count": index.frame_count,
        "end_seconds": index.end_seconds,
    }
    send(answers, {"index": line})
    answers.write(index.key_seconds.tobytes() + index.key_numbers.tobytes())


def send_pictures(answers: BinaryIO, pictures: Iterable[Picture]) -> None:
    """Answer with frames: for each a JSON line, then its bytes.

    The line is ``{"frame": {"place": "3.367 s of the file", "width": 320, "height": 240}}``.
    """
    for picture in pictures:
        line = {"place": picture.place, "width": picture.width, "height": picture.height}
        send(answers, {"frame": line})
        answers.write(np.ascontiguousarray(picture.rgb).data)
        answers.flush()


OPEN_FILES = 8
"""So many files stay open, each with a decoder: some cameras of some neighbouring files."""


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Free what it holds."""


File = TypeVar("File", bound=Closable)


class OpenFiles(Generic[File]):
    """The files used last; a file that was replaced on disk is opened again."""

    def __init__(self, open_file: Callable[[str], File]) -> None:
        self._open_file = open_file
        self._files: OrderedDict[tuple[str, int, int, int], File] = OrderedDict()

    def get(self, path: str) -> File:
        """Return the open file at ``path``.

        Raises:
            RefusedError: it is missing, unreadable or not what ``open_file`` expects.
        """
        try:
            status = os.stat(path)  # noqa: PTH116  (the path came as text and goes on as text)
        except OSError as error:
            raise RefusedError("open", f"can't be read: {error.strerror}") from error
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        file = self._files.pop(key, None)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = self._open_file(path)
        self._files[key] = file
        return file
