"""One video file, opened with FFmpeg's libraries: frames by PTS, and the hash of its packets.

Runs inside the decoder's child process (see ``pyav_child``): imports neither torch nor anything that
decides *which* frames are wanted. Pictures are as LeRobot's reader gives them: no autorotation, RGB24, grey
in three channels.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from annotationrun_worker.dataset.types import FRAME_PIXELS_LIMIT
from annotationrun_worker.video.child_server import Picture, RefusedError
from annotationrun_worker.video.decode_plan import FileIndex
from annotationrun_worker.video.ffmpeg_command import FORMAT_WHITELIST
from annotationrun_worker.video.packets import (
    PacketHasher,
    PacketReader,
    VideoPacket,
    is_dispensable,
    length_bytes,
    pts_of,
    sound_packets,
)

OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMAT_WHITELIST,
}

DECODER_OPTIONS = {"err_detect": "explode", "max_pixels": str(FRAME_PIXELS_LIMIT)}
"""Damage is an error, not a picture with grey blocks; so is a size that no camera has, wherever it begins."""

OPTIONS_OF_DECODERS = {"libdav1d": {"max_frame_delay": "1"}}
"""A decoder that works on several frames at once is fed packets behind the frame wanted: that costs time
where few frames are wanted, and damage there would fail frames that are well. So threads share one frame."""

REORDERED_FRAMES = 64
"""More than any decoder holds back."""


class VideoFile:
    """An open file and the place where decoding stands; not safe for several threads."""

    def __init__(self, path: str, progress: Callable[[], None] = lambda: None) -> None:
        """``progress`` is called for each packet that is read or decoded.

        Raises:
            RefusedError: it can't be opened.
        """
        try:
            # what its titles and brands say is nobody's concern, nor whether that is UTF-8
            self._container: InputContainer = av.open(
                path, mode="r", options=OPEN_OPTIONS, metadata_errors="ignore"
            )
        except (av.FFmpegError, OSError) as error:
            raise RefusedError("open", f"can't be opened as a video: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise RefusedError("open", "holds no video stream")
        self._stream: VideoStream = self._container.streams.video[0]
        if self._stream.codec_context is None:  # PyAV's stubs don't tell
            self._container.close()
            raise RefusedError(
                "open",
                "this FFmpeg has no decoder for the video's codec; see it with ffprobe, and convert it "
                "(to AV1 or H.264)",
            )
        self._codec_name = self._stream.codec_context.codec.canonical_name
        self._extradata = bytes(self._stream.codec_context.extradata or b"")
        self._stream.codec_context.options = DECODER_OPTIONS | OPTIONS_OF_DECODERS.get(
            self._stream.codec_context.name, {}
        )
        # There is a child for each core: more threads would only be in each other's way.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = 1
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width * height > FRAME_PIXELS_LIMIT:
            self._container.close()
            raise RefusedError("open", f"frames of {width} x {height} pixels are out of bounds")
        if self._stream.frames > self._container.size:
            self._container.close()
            raise RefusedError(
                "open", f"claims to hold {self._stream.frames} frames, more than it has bytes; it is damaged"
            )
        if self._stream.time_base is None:
            raise RefusedError("open", "has no time base")
        self._time_base: Fraction = self._stream.time_base
        self._reformatter = VideoReformatter()
        self._progress = progress
        self._reader = PacketReader(self._container, self._stream, self._time_base, progress)
        self._hasher = PacketHasher(self._container, self._stream, self._time_base, progress)
        # H.264 tells which frames no other one refers to: such a frame is decoded only if it is wanted.
        self._length_bytes = length_bytes(self._extradata) if self._codec_name == "h264" else None
        self._forget_position()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def pictures_at(
        self, targets_seconds: Sequence[float], tolerances_seconds: Sequence[float]
    ) -> Iterator[Picture]:
        """Give the frame with the nearest PTS for each target.

        The targets (seconds of PTS) must rise. See ``decode_plan`` for what is decoded.

        Raises:
            RefusedError: the decoder failed, or the nearest frame is further away than its tolerance.
        """
        ticks = [target / float(self._time_base) for target in targets_seconds]
        reach = [tolerance / float(self._time_base) for tolerance in tolerances_seconds]
        wanted = _Wanted(ticks, max(reach))
        shown: VideoFrame | None = None
        for target, tolerance, wanted_ticks in zip(targets_seconds, tolerances_seconds, ticks, strict=True):
            try:
                frame = self._nearest(wanted_ticks, wanted)
            except (av.FFmpegError, OSError) as error:
                self._forget_position()
                raise RefusedError(
                    "decode", f"decoding failed on the way to {target:.6f} s of the file: {error}"
                ) from error
            except RefusedError:
                self._forget_position()
                raise
            self._check(frame, target, tolerance)
            if frame is not shown:
                picture, shown = self._picture(frame), frame
            yield picture

    def index(self) -> FileIndex:
        """Where the keyframes are, from the container's own tables.

        These hold DTS; how much later a keyframe is shown is read off one in the middle.
        """
        self._forget_position()
        start, duration = self._stream.start_time or 0, self._duration_ticks()
        try:
            self._container.seek(start + duration // 2, stream=self._stream)
            late = self._reader.note_keyframe(next(sound_packets(self._container, self._stream)))
        except (av.FFmpegError, RefusedError, StopIteration):
            late = 0  # frames elsewhere may be well
        entries = self._stream.index_entries
        keys = [(entry.timestamp, number) for number, entry in enumerate(entries) if entry.is_keyframe]
        keys = keys or [(start, 0)]
        seconds = (np.array([key[0] for key in keys], dtype=np.float64) + late) * float(self._time_base)
        context = self._stream.codec_context
        return FileIndex(
            width=context.width,
            height=context.height,
            key_seconds=np.maximum.accumulate(seconds),
            key_numbers=np.array([key[1] for key in keys], dtype=np.int64),
            frame_count=len(entries),
            end_seconds=float((start + duration) * self._time_base),
        )

    def packets_sha256(self, start_seconds: float, stop_seconds: float) -> tuple[str, int]:
        """SHA-256 (hex) over the compressed packets whose PTS lies in [start, stop), and their number.

        Nothing is decoded. What is hashed, all integers little-endian:

        - the codec's name (FFmpeg's short one, such as ``av1``; UTF-8) and the stream's extradata, each after
          its length in bytes as uint32;
        - for each packet, in file order: its PTS relative to the first one's in microseconds, rounded to the
          nearest (halves up), as int64; 1 or 0 for a keyframe or not, as uint8; its size in bytes as uint64;
          its bytes.

        Raises:
            RefusedError: a packet is damaged or has no PTS, or none lies in the span.
        """
        try:
            return self._hasher.sha256(
                (self._codec_name.encode(), self._extradata), start_seconds, stop_seconds
            )
        finally:
            self._forget_position()

    def _forget_position(self) -> None:
        self._reader.forget()
        self._emitted: deque[VideoFrame] = deque()
        self._fed: deque[int] = deque(maxlen=REORDERED_FRAMES)
        self._before: VideoFrame | None = None
        self._current: VideoFrame | None = None
        self._drained = False
        self._left = False

    def _nearest(self, ticks: float, wanted: "_Wanted") -> VideoFrame:
        """The decoded frame nearest to the target; the earlier one of two at the same distance."""
        if self._can_go_on(ticks):
            try:
                return self._decoded(ticks, wanted)
            except (av.FFmpegError, RefusedError):
                pass  # the damage may lie before the keyframe that a seek finds
        try:
            return self._decoded_anew(ticks, wanted)
        except (av.FFmpegError, RefusedError):
            if self._length_bytes is None:
                raise
        # A decoder that has to guess how frames are reordered may not cope with those left out.
        self._length_bytes = None
        return self._decoded_anew(ticks, wanted)

    def _can_go_on(self, ticks: float) -> bool:
        passed = self._before if self._before is not None else self._current
        if self._left or (passed is not None and self._pts(passed) > ticks):
            return False
        return self._reader.holds(ticks)

    def _decoded_anew(self, ticks: float, wanted: "_Wanted") -> VideoFrame:
        self._forget_position()
        self._reader.start_before(ticks)
        return self._decoded(ticks, wanted)

    def _decoded(self, ticks: float, wanted: "_Wanted") -> VideoFrame:
        while (pts := self._reader.nearest(ticks)) is None and self._reader.crowded:
            self._skip_to_keyframe(int(ticks))
            while self._reader.crowded:
                self._decode_one(wanted)
                self._take_emitted(int(ticks))
        if pts is not None:
            self._skip_to_keyframe(pts)
            following = wanted.after(ticks)
            ends_here = following is not None and not self._reader.holds(following)
            while not self._take_emitted(pts) and not self._drained:
                if ends_here and pts in self._fed:
                    self._drain()
                else:
                    self._decode_toward(pts, wanted)
        near = [frame for frame in (self._before, self._current) if frame is not None]
        if pts is None or not near:
            self._reader.raise_end()
            seconds = ticks * float(self._time_base)
            raise RefusedError("decode", f"no frame could be decoded for {seconds:.6f} s of the file")
        frame = min(near, key=lambda frame: abs(self._pts(frame) - ticks))
        if self._pts(frame) != pts and self._length_bytes is not None:
            raise RefusedError("decode", "a frame did not come out of the decoder")
        return frame

    def _skip_to_keyframe(self, pts: int) -> None:
        if self._reader.skip_to_keyframe(pts):
            self._stream.codec_context.flush_buffers()
            self._emitted.clear()
            self._fed.clear()
            self._before = self._current = None

    def _take_emitted(self, pts: int) -> bool:
        """Go forward through the frames that came out; True if the one at ``pts``, or a later one, has."""
        while self._emitted and (self._current is None or self._pts(self._current) < pts):
            self._before, self._current = self._current, self._emitted.popleft()
            if self._current.is_corrupt:  # what follows is decoded from it
                seconds = self._seconds(self._current)
                raise RefusedError("decode", f"the frame at {seconds:.6f} s of the file is damaged")
        return self._current is not None and self._pts(self._current) >= pts

    def _decode_toward(self, pts: int, wanted: "_Wanted") -> None:
        try:
            self._decode_one(wanted, pts)
        except (av.FFmpegError, RefusedError):
            if pts not in self._fed:
                raise
            # What is damaged lies behind the frame, which the decoder may still hold.
            self._drain()
            if pts not in {frame.pts for frame in self._emitted}:
                raise

    def _drain(self) -> None:
        """Take the frames that the decoder still holds; it has to start anew afterwards."""
        self._drained = self._left = True
        self._emitted.extend(self._stream.decode(None))

    def _decode_one(self, wanted: "_Wanted", pts: int | None = None) -> None:
        """Give the decoder one packet, or word of the end, and take the frames that come out."""
        packet = self._reader.next_packet()
        self._progress()
        if packet is None:
            self._drained = True
        else:
            shown = pts_of(packet)
            if shown != pts and wanted.can_do_without(shown) and self._is_dispensable(packet):
                return
            self._fed.append(shown)
        self._emitted.extend(self._stream.decode(packet))

    def _is_dispensable(self, packet: VideoPacket) -> bool:
        """Whether nothing else is decoded from the packet's frame.

        The decoder is not told to leave frames out by itself (``skip_frame``): it would pass over damage in
        those that others refer to.
        """
        return self._length_bytes is not None and is_dispensable(memoryview(packet), self._length_bytes)

    def _check(self, frame: VideoFrame, target: float, tolerance: float) -> None:
        got = self._seconds(frame)
        if abs(got - target) > tolerance:
            raise RefusedError(
                "no_frame",
                f"the frame nearest to {target:.6f} s of the file is at {got:.6f} s, "
                f"at most {tolerance:.6f} s off is taken",
            )

    def _picture(self, frame: VideoFrame) -> Picture:
        if frame.format.components[0].bits > 8 or frame.interlaced_frame:
            frame = _plain(frame)
        # One thread: at camera sizes more of them cost more than they save.
        # Bicubic, as the ffmpeg backend: it counts for odd sizes and more than 8 bits.
        rgb: Any = self._reformatter.reformat(
            frame, format="rgb24", interpolation="BICUBIC", threads=1
        ).to_ndarray()
        height, width, _ = rgb.shape
        return Picture(f"{self._seconds(frame):.3f} s of the file", width, height, rgb)

    def _pts(self, frame: VideoFrame) -> int:
        if frame.pts is None:
            raise RefusedError("decode", "a frame has no PTS")
        return frame.pts

    def _seconds(self, frame: VideoFrame) -> float:
        return float(self._pts(frame) * self._time_base)

    def _duration_ticks(self) -> int:
        if self._stream.duration is not None:
            return self._stream.duration
        return self._ticks((self._container.duration or 0) / av.time_base)

    def _ticks(self, seconds: float) -> int:
        return int(seconds / self._time_base)


class _Wanted:
    """The targets of a request, in ticks."""

    def __init__(self, rising_ticks: Sequence[float], reach_ticks: float) -> None:
        self._ticks = rising_ticks
        self._reach = reach_ticks

    def after(self, ticks: float) -> float | None:
        """The next target; None behind the last."""
        number = bisect.bisect_right(self._ticks, ticks)
        return self._ticks[number] if number < len(self._ticks) else None

    def can_do_without(self, pts: int) -> bool:
        """Whether the frame at ``pts`` lies before the last target, and near none.

        One behind it may be what the next request wants.
        """
        after = bisect.bisect_left(self._ticks, pts - self._reach)
        return pts < self._ticks[-1] and not (
            after < len(self._ticks) and self._ticks[after] <= pts + self._reach
        )


def _plain(frame: VideoFrame) -> VideoFrame:
    """A copy that does not tell where its chroma lies, nor that it holds two fields.

    FFmpeg 8's scaler goes by both, the ffmpeg program of earlier versions by neither.
    """
    plain = VideoFrame(frame.width, frame.height, frame.format.name)
    plain.pts, plain.colorspace, plain.color_range = frame.pts, frame.colorspace, frame.color_range
    for source, copy in zip(frame.planes, plain.planes, strict=True):
        row_bytes = min(source.line_size, copy.line_size)
        rows, copied = (
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            for plane in (source, copy)
        )
        copied[:, :row_bytes] = rows[:, :row_bytes]
    return plain
