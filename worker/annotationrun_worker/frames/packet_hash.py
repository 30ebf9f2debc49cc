"""The hash of a stretch of a video's compressed packets; nothing is decoded."""

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from annotationrun_worker.frames.child_server import RefusedError
from annotationrun_worker.frames.packet_reader import VideoPacket, pts_of, sound_packets
from annotationrun_worker.frames.seeking import steps_back


class PacketHasher:
    """Hashes packets of an open container, whose place of reading it moves."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        time_base: Fraction,
        progress: Callable[[], None],
    ) -> None:
        """``progress`` is called for each packet that is read."""
        self._container = container
        self._stream = stream
        self._time_base = time_base
        self._progress = progress

    def sha256(self, heads: Sequence[bytes], start_seconds: float, stop_seconds: float) -> tuple[str, int]:
        """SHA-256 (hex) over ``heads`` and the packets, and their number; see ``VideoFile.packets_sha256``.

        Raises:
            RefusedError: a packet is damaged or has no PTS, or none lies in the span.
        """
        digest = hashlib.sha256()
        for head in heads:
            digest.update(struct.pack("<I", len(head)) + head)
        count, first_pts = 0, 0
        try:
            for packet in self._packets_from(start_seconds):
                self._progress()
                pts = pts_of(packet)
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
        if count == 0:
            raise RefusedError("read", f"holds no packet from {start_seconds:.6f} to {stop_seconds:.6f} s")
        return digest.hexdigest(), count

    def _packets_from(self, start_seconds: float) -> Iterator[VideoPacket]:
        """The packets in file order, from a keyframe shown at or before ``start_seconds``."""
        for seek_seconds in steps_back(start_seconds):
            ticks = int(max(seek_seconds, 0.0) / self._time_base)
            self._container.seek(ticks, stream=self._stream, backward=True)
            packets = sound_packets(self._container, self._stream)
            first = next(packets, None)
            if first is not None and (seek_seconds <= 0 or pts_of(first) * self._time_base <= start_seconds):
                yield first
                yield from packets
                return


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
