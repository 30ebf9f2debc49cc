"""Frames on their way from a child to this process, through memory that both have mapped.

Each child has one piece of it for life: pages that are there already cost nothing, while new ones for each
request cost half as much as the decoding. The child writes frames into slots, one after the other and around
again, and says in lines how far it is; this process copies them to where they belong, and says so, before
their slots are written again::

    child: {"filled": 4}    child: {"filled": 8}    parent: 4    child: {"done": {}}

The memory is an anonymous file (memfd), inherited by the child: it goes with the two processes however they
end, and counts as their memory, not as /dev/shm's. It is sealed: a child can't shrink it under our feet,
which would kill us at the next read.
"""

import fcntl
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.video.child_server import Picture, Request, check_size, send
from annotationrun_worker.video.tiles import TileSize, tile_of

MEMORY_BYTES = 16 * 1024 * 1024
"""Of each child: some frames of a camera, and still in the processor's cache when they are copied."""

LARGE_FRAMES = 2
"""Room for at least so many frames, however large they are."""

ANNOUNCED_PARTS = 4
"""The child says how far it is when a part of the memory, or of what is wanted, is there ..."""

ALIVE_SECONDS = 0.5
"""... and as a sign of life, where frames take long."""


class SharedMemory:
    """Memory by its descriptor, mapped as far as it was needed; for one thread at a time."""

    def __init__(self, descriptor: int | None = None) -> None:
        """``descriptor`` is what was inherited; None: make it."""
        self._made = descriptor is None
        if descriptor is None:
            descriptor = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.descriptor = descriptor
        self._mapped: mmap.mmap | None = None

    def slots(self, height: int, width: int) -> NDArray[np.uint8]:
        """Room for frames of this size: uint8 of shape (slots, height, width, 3)."""
        frame_bytes = height * width * 3
        wanted_bytes = max(MEMORY_BYTES, LARGE_FRAMES * frame_bytes)
        if self._mapped is None or len(self._mapped) < wanted_bytes:
            if self._made:
                os.ftruncate(self.descriptor, wanted_bytes)
            self._mapped = mmap.mmap(self.descriptor, wanted_bytes)
        count = wanted_bytes // frame_bytes
        pixels = np.frombuffer(self._mapped, np.uint8, count * frame_bytes)
        return pixels.reshape(count, height, width, 3)

    def close(self) -> None:
        """Give it back; whoever else has it mapped keeps it."""
        self._mapped = None
        os.close(self.descriptor)


class PictureFile(Protocol):
    """An open video in the child."""

    def pictures_at(
        self, targets_seconds: Sequence[float], tolerances_seconds: Sequence[float]
    ) -> Iterable[Picture]:
        """Give the frame with the nearest PTS for each target (rising)."""


class FrameSender:
    """In the child: carries out requests for ``frames``."""

    def __init__(self) -> None:
        """The memory's descriptor is the program's first argument."""
        self._memory = SharedMemory(int(sys.argv[1]))

    def send(self, request: Request, answers: BinaryIO, open_file: Callable[[str], PictureFile]) -> None:
        """Decode the frames into the memory, or make tiles of them there.

        Raises:
            RefusedError: one of them can't be had, or has another size than the request says.
        """
        size = TileSize(request["width"], request["height"], request["tile_width"])
        targets = request["targets_seconds"]
        slots = self._memory.slots(size.height, size.width)
        part = max(min(len(slots), len(targets)) // ANNOUNCED_PARTS, 1)
        pictures = open_file(request["path"]).pictures_at(targets, request["tolerances_seconds"])
        taken, told_seconds = 0, time.monotonic()
        for number, picture in enumerate(pictures):
            while number - taken >= len(slots):
                taken = int(sys.stdin.buffer.readline())
            check_size(picture, size)
            rgb = picture.rgb if size.width == picture.width else tile_of(picture.rgb, size.width)
            np.copyto(slots[number % len(slots)], rgb)
            if (number + 1) % part == 0 or time.monotonic() - told_seconds > ALIVE_SECONDS:
                send(answers, {"filled": number + 1})
                answers.flush()
                told_seconds = time.monotonic()
