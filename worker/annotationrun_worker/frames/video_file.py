"""One video file, opened with FFmpeg's libraries: frames by PTS, and the hash of its packets.

Runs inside the decoder's child process (see ``decoder_child``): imports neither torch nor anything that
decides *which* frames are wanted. Pictures are as LeRobot's reader gives them: no autorotation, RGB24, grey
in three channels.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from annotationrun_worker.frames.child_server import Picture, RefusedError
from annotationrun_worker.frames.ffmpeg_command import FORMAT_WHITELIST
from annotationrun_worker.frames.seeking import steps_back

if TYPE_CHECKING:
    VideoPacket: TypeAlias = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in PyAV's stubs alone

OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": FORMAT_WHITELIST,
}

DECODER_OPTIONS = {"err_detect": "explode"}
"""Damage is an error, not a picture with grey blocks."""

OPTIONS_OF_DECODERS = {"libdav1d": {"max_frame_delay": "1"}}
"""A decoder that works on several frames at once is fed packets behind the frame wanted: that costs time
where few frames are wanted, and damage there would fail frames that are well. So threads share one frame."""

SEEK_WORTH_FRAMES = 8
"""Seek, rather than decode forward, when that skips more than so many frames: a seek costs about as much."""


class VideoFile:
    """An open file and the place where decoding stands; not safe for several threads."""

    def __init__(self, path: str) -> None:
        try:
            self._container: InputContainer = av.open(path, mode="r", options=OPEN_OPTIONS)
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
        self._stream.thread_type = "SLICE"
        if self._stream.time_base is None:
            raise RefusedError("open", "has no time base")
        self._time_base: Fraction = self._stream.time_base
        self._reformatter = VideoReformatter()
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

        The targets (seconds of PTS) must rise. One seek to the keyframe at or before the first target, then
        forward; another seek only where a keyframe lies well ahead.

        Raises:
            RefusedError: the decoder failed, or the nearest frame is further away than its tolerance.
        """
        for target, tolerance in zip(targets_seconds, tolerances_seconds, strict=True):
            try:
                frame = self._nearest(target)
            except (av.FFmpegError, OSError) as error:
                self._forget_position()
                raise RefusedError(
                    "decode", f"decoding failed on the way to {target:.6f} s of the file: {error}"
                ) from error
            except RefusedError:
                self._forget_position()
                raise
            self._check(frame, target, tolerance)
            yield self._picture(frame)

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
        digest = hashlib.sha256()
        for text in (self._codec_name.encode(), self._extradata):
            digest.update(struct.pack("<I", len(text)) + text)
        count, first_pts = 0, 0
        try:
            for packet in self._packets_from(start_seconds):
                pts = _pts(packet)
                if packet.dts is not None and packet.dts * self._time_base >= stop_seconds:
                    break  # a packet is never shown before its DTS, so nothing of the span follows
                if not start_seconds <= pts * self._time_base < stop_seconds:
                    continue
                first_pts = pts if count == 0 else first_pts
                count += 1
                microseconds = _rounded((pts - first_pts) * self._time_base * 1_000_000)
                digest.update(struct.pack("<qBQ", microseconds, packet.is_keyframe, packet.size))
                digest.update(memoryview(packet))
        except (av.FFmpegError, OSError) as error:
            raise RefusedError("read", f"reading the packets failed: {error}") from error
        finally:
            self._forget_position()
        if count == 0:
            raise RefusedError("read", f"holds no packet from {start_seconds:.6f} to {stop_seconds:.6f} s")
        return digest.hexdigest(), count

    def _forget_position(self) -> None:
        self._frames: Iterator[VideoFrame] = iter(())
        self._before: VideoFrame | None = None
        self._current: VideoFrame | None = None

    def _nearest(self, target_seconds: float) -> VideoFrame:
        """The decoded frame nearest to the target; the earlier one of two at the same distance."""
        if self._can_go_forward(target_seconds):
            try:
                return self._nearest_ahead(target_seconds)
            except (av.FFmpegError, RefusedError):
                self._forget_position()  # the damage may lie before the keyframe that a seek finds
        self._start_before(target_seconds)
        return self._nearest_ahead(target_seconds)

    def _nearest_ahead(self, target_seconds: float) -> VideoFrame:
        # Within half a tick no other frame can be nearer: don't decode one more to see that.
        enough_seconds = target_seconds - float(self._time_base) / 2
        while self._current is not None and self._seconds(self._current) < enough_seconds:
            following = next(self._frames, None)
            if following is None:
                return self._current
            self._before, self._current = self._current, following
        if self._current is None:
            raise RefusedError("decode", f"no frame could be decoded for {target_seconds:.6f} s of the file")
        if self._before is None:
            return self._current
        to_before = target_seconds - self._seconds(self._before)
        return self._before if to_before <= self._seconds(self._current) - target_seconds else self._current

    def _can_go_forward(self, target_seconds: float) -> bool:
        """Whether the target lies ahead, and not so far that a seek would be cheaper."""
        at_or_before = self._before if self._before is not None else self._current
        if at_or_before is None or self._current is None or self._seconds(at_or_before) > target_seconds:
            return False
        index = self._stream.index_entries
        key = index.search_timestamp(self._ticks(target_seconds), backward=True)
        here = index.search_timestamp(self._pts(self._current), backward=True, any_frame=True)
        return key < 0 or here < 0 or key - here <= SEEK_WORTH_FRAMES

    def _start_before(self, target_seconds: float) -> None:
        """Start decoding at a keyframe whose first frame is shown at or before the target."""
        for seek_seconds in steps_back(target_seconds):
            self._seek(seek_seconds)
            self._frames = self._decoded()
            self._before, self._current = None, next(self._frames, None)
            if self._current is not None and self._seconds(self._current) <= target_seconds:
                return

    def _packets_from(self, start_seconds: float) -> Iterator[VideoPacket]:
        """The packets in file order, from a keyframe shown at or before ``start_seconds``."""
        for seek_seconds in steps_back(start_seconds):
            self._seek(seek_seconds)
            packets = self._packets()
            first = next(packets, None)
            if first is not None and (seek_seconds <= 0 or _pts(first) * self._time_base <= start_seconds):
                yield first
                yield from packets
                return

    def _seek(self, seconds: float) -> None:
        self._container.seek(self._ticks(max(seconds, 0.0)), stream=self._stream, backward=True)

    def _packets(self) -> Iterator[VideoPacket]:
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise RefusedError("decode", "a packet is damaged or cut off; is the file complete?")
            if packet.size:
                yield packet

    def _decoded(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            yield from self._stream.decode(packet)
        yield from self._stream.decode(None)

    def _check(self, frame: VideoFrame, target: float, tolerance: float) -> None:
        got = self._seconds(frame)
        if abs(got - target) > tolerance:
            raise RefusedError(
                "no_frame",
                f"the frame nearest to {target:.6f} s of the file is at {got:.6f} s, "
                f"at most {tolerance:.6f} s off is taken",
            )
        if frame.is_corrupt:
            raise RefusedError("decode", f"the frame at {got:.6f} s of the file is damaged")

    def _picture(self, frame: VideoFrame) -> Picture:
        # One thread: at camera sizes more of them cost more than they save.
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        height, width, _ = rgb.shape
        return Picture(f"{self._seconds(frame):.3f} s of the file", width, height, rgb.tobytes())

    def _pts(self, frame: VideoFrame) -> int:
        if frame.pts is None:
            raise RefusedError("decode", "a frame has no PTS")
        return frame.pts

    def _seconds(self, frame: VideoFrame) -> float:
        return float(self._pts(frame) * self._time_base)

    def _ticks(self, seconds: float) -> int:
        return int(seconds / self._time_base)


def _pts(packet: VideoPacket) -> int:
    if packet.pts is None:
        raise RefusedError("read", "a packet has no PTS")
    return packet.pts


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
