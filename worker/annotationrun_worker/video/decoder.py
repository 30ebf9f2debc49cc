"""Decoders of videos as the rest of the worker sees them, and the one that works through PyAV."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, VideoSpan
from annotationrun_worker.errors import DatasetError, FrameDecodeError, FrameSizeError
from annotationrun_worker.video.child_process import (
    FRAME_BYTES_LIMIT,
    ChildProcess,
    Errand,
    LivingChild,
    MisfitError,
    receive_answer,
    receive_line,
)
from annotationrun_worker.video.decode_plan import FileIndex, cut, plan_groups
from annotationrun_worker.video.decoder_pool import DecoderPool
from annotationrun_worker.video.frame_cache import ByteBoundedCache
from annotationrun_worker.video.tiles import TileSize

PYAV_CHILD = "annotationrun_worker.video.pyav_child"
TORCHCODEC_CHILD = "annotationrun_worker.video.torchcodec_child"

DECODE_TIMEOUT_SECONDS = 60.0
"""Longest wait for a child's next answer or sign of life; torchcodec gives none while it decodes."""

CHILDREN = min(os.cpu_count() or 1, 4)
"""Decoding processes at once: one a core, as each decodes with few threads. Four keep up with 16 requests in
flight, for a frame is decoded in milliseconds and a request to the model takes seconds."""


INDEX_BYTES = 64 * 1024 * 1024
"""Of the indexes that are kept; that of an hour with a keyframe every other frame has one of these."""

FileKey: TypeAlias = tuple[str, int, int, int]
"""Path, inode, size, time of change in nanoseconds."""


@dataclass(frozen=True, slots=True)
class EpisodeVideo:
    """Where to decode, and for whom; the latter for the errors."""

    episode: EpisodeIndex
    camera: CameraKey
    span: VideoSpan
    frame_count: int
    """Frames that the episode has: the packets in its span have to be as many."""
    frame_size: tuple[int, int] | None = None
    """(width, height) that the frames have to have: others are not decoded, nor is there room for them; None:
    whatever the file says."""

    def at(self, first_pts_seconds: float, last_pts_seconds: float) -> str:
        """Whose frames from when to when, in the episode's time, for an error."""
        start = self.span.from_timestamp_seconds
        first, last = (f"{pts - start:.3f}" for pts in (first_pts_seconds, last_pts_seconds))
        times = f"at {first} s" if first == last else f"from {first} to {last} s"
        return f"episode {self.episode}, camera {self.camera!r}, {times}, file {str(self.span.path)!r}"


class VideoFrames(Protocol):
    """Decodes frames outside of this process; safe for any number of threads."""

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS: uint8 of shape (targets, height, width, 3), RGB.

        ``targets_seconds`` are PTS in the file, at least one, rising; each frame may be off by its tolerance.
        With ``tile`` they come as tiles.

        Raises:
            FrameMissingError: no frame lies so near to one of them.
            FrameSizeError: the frames are not of the size that ``tile`` says.
            FrameDecodeError: one of them can't be had; there is no partial answer.
            ConfigurationError: the library or program that decodes is not installed.
        """

    def close(self) -> None:
        """End the child processes; a request under way fails."""


class Decoder(VideoFrames, Protocol):
    """Decodes frames, and reads the packets that they are coded in."""

    @property
    def fallback_files(self) -> int:
        """Number of files that had to be decoded in another way than the first choice."""

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """(width, height) in pixels, as the container tells them; nothing is decoded.

        Raises:
            FrameDecodeError: the file can't be opened.
        """

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """SHA-256 (hex) over the compressed packets with PTS in [start, stop); see ``video_file``.

        The same for every backend.

        Raises:
            FrameDecodeError: the packets can't be read.
            DatasetError: they are not as many as the episode has frames.
        """


class DecoderProcess:
    """A decoder in living child processes that use PyAV, or another library that is asked in the same way."""

    def __init__(
        self,
        timeout_seconds: float = DECODE_TIMEOUT_SECONDS,
        *,
        module: str | None = None,
        children: int = 1,
    ) -> None:
        """``module`` is what a child runs; None: PyAV's."""
        self._pool = DecoderPool(
            module or PYAV_CHILD, timeout_seconds, children, lambda child, count: receive_frames(child, count)
        )
        self._indexes: ByteBoundedCache[FileKey, FileIndex] = ByteBoundedCache(INDEX_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._pool.child_pids

    @property
    def child_pid(self) -> int | None:
        """Process id of the first child; None before the first request and after the close."""
        return next(iter(self.child_pids), None)

    @property
    def fallback_files(self) -> int:
        """There is no other way."""
        return 0

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._pool.closed

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        """Decode the frames with the nearest PTS; see ``VideoFrames.frames``."""
        index, targets = self._index(video, targets_seconds), (targets_seconds, tolerances_seconds)
        tile_width = None if tile is None else tile.width
        if video.frame_size is not None:
            index = replace(index, width=video.frame_size[0], height=video.frame_size[1])
        try:
            frames = self._decoded(video, index, targets, tile_width)
        except FrameSizeError as size_error:
            if video.frame_size is not None:
                raise
            # The container may lie; what the decoder says holds.
            index = replace(index, width=size_error.width, height=size_error.height)
            try:
                frames = self._decoded(video, index, targets, tile_width)
            except FrameSizeError as error:
                raise FrameDecodeError(str(error)) from error  # there are both
            self._indexes.put(_key_of(video.span.path), index, index.size_bytes)
        if tile is not None:
            check_frame_size(
                video.at(targets_seconds[0], targets_seconds[-1]), tile, index.width, index.height
            )
        return frames

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """(width, height); see ``Decoder.frame_size``."""
        index = self._index(video, np.array([video.span.from_timestamp_seconds]))
        return index.width, index.height

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """Digest of the compressed packets; see ``Decoder.packet_digest``."""
        request = {
            "op": "packets",
            "path": str(video.span.path),
            "start_seconds": start_seconds,
            "stop_seconds": stop_seconds,
        }
        where = video.at(start_seconds, stop_seconds)
        errand = Errand(where, video.span.path, request)

        def ask(child: LivingChild) -> tuple[str, int]:
            told = child.ask(errand, lambda process: receive_line(process, "done"))
            return str(told["sha256"]), int(told["packets"])

        digest, packets = self._pool.run(video.span.path, lambda: where, ask)
        if packets != video.frame_count:
            raise DatasetError(
                f"{where}: the video holds {packets} frames in the episode's span, but the episode has "
                f"{video.frame_count} rows"
            )
        return digest

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        self._pool.close()

    def _decoded(
        self,
        video: EpisodeVideo,
        index: FileIndex,
        targets: tuple[NDArray[np.float64], NDArray[np.float64]],
        tile_width: int | None,
    ) -> NDArray[np.uint8]:
        times = targets[0]

        def where(part: slice) -> str:
            return video.at(times[part][0], times[part][-1])

        if not 0 < index.height * index.width * 3 <= FRAME_BYTES_LIMIT:
            raise FrameDecodeError(
                f"{where(slice(None))}: frames of {index.width} x {index.height} pixels are out of bounds"
            )
        size = TileSize(index.width, index.height, tile_width or index.width)
        if size.height * size.width * 3 > FRAME_BYTES_LIMIT:
            raise FrameDecodeError(
                f"{where(slice(None))}: tiles of {size.width} x {size.height} pixels are out of bounds"
            )
        stretches = cut(plan_groups(index, times), self._pool.size)
        frames = np.empty((len(times), size.height, size.width, 3), dtype=np.uint8)
        whole_size = (index.width, index.height)
        self._pool.decode(video.span.path, where, stretches, targets, (frames, whole_size))
        return frames

    def _index(self, video: EpisodeVideo, targets_seconds: NDArray[np.float64]) -> FileIndex:
        path = video.span.path
        key = _key_of(path)
        index = self._indexes.get(key)
        if index is None:
            where = video.at(targets_seconds[0], targets_seconds[-1])
            errand = Errand(where, path, {"op": "index", "path": str(path)})
            index = self._pool.run(path, lambda: where, lambda child: child.ask(errand, receive_index))
            self._indexes.put(key, index, index.size_bytes)
        return index


def check_frame_size(where: str, tile: TileSize, width: int, height: int) -> None:
    """Raise a FrameSizeError if the frames, ``width`` x ``height`` pixels, are not those of ``tile``."""
    if (width, height) != (tile.frame_width, tile.frame_height):
        raise FrameSizeError(
            f"{where}: the frames are {width} x {height} pixels, expected {tile.frame_width} x "
            f"{tile.frame_height}",
            width,
            height,
        )


def _key_of(path: Path) -> FileKey:
    """Changes when the file is replaced; a file that is missing is for the child to tell of."""
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def receive_frames(child: ChildProcess, count: int) -> Iterator[int]:
    """How many of ``count`` frames are in the child's memory, each time some more are.

    Those told of before may be written over by then.
    """
    while "filled" in (answer := receive_answer(child)):
        yield answer["filled"]
        child.send_bytes(b"%d\n" % answer["filled"])
    yield count


def receive_index(child: ChildProcess) -> FileIndex:
    """The index that the child sends (``send_index``)."""
    told = receive_line(child, "index")
    keys = told["keys"]
    if not 0 < keys <= INDEX_BYTES // 16:
        raise MisfitError(f"an index of {keys} keyframes is out of bounds")
    tables = np.empty((2, keys), dtype=np.float64)
    child.receive_into(tables.data.cast("B"))
    receive_line(child, "done")
    return FileIndex(
        width=told["width"],
        height=told["height"],
        key_seconds=tables[0],
        key_numbers=tables[1].view(np.int64),
        frame_count=told["frame_count"],
        end_seconds=told["end_seconds"],
    )
