"""The compressed packets of a video: read, hashed, and those among them that no other one needs.

Which H.264 packets no other one needs, told by the heads of their NAL units: pure.

Format: ISO/IEC 14496-15 (the decoder configuration ``avcC``; NAL units behind their lengths) and ITU-T H.264,
7.3.1 and 7.4.1 (the head of a NAL unit).

The packets of a video stream, read ahead of the decoder: which frames there are near a time.

Reading costs next to nothing beside decoding, and tells every frame's PTS. So the frame wanted is known
before anything is decoded for it, and packets that it does not need are dropped.

The hash of a stretch of a video's compressed packets; nothing is decoded.
"""

import bisect
import hashlib
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from annotationrun_worker.video.child_server import RefusedError
from annotationrun_worker.video.decode_plan import steps_back

if TYPE_CHECKING:
    VideoPacket: TypeAlias = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in PyAV's stubs alone

AVCC_VERSION = 1
"""First byte of an ``avcC``; what begins otherwise holds NAL units behind start codes."""

SLICES = range(1, 6)
"""Types of NAL units that hold parts of a picture."""


def length_bytes(extradata: bytes) -> int | None:
    """Size of the length before each NAL unit; None: the packets are not laid out so."""
    if len(extradata) < 5 or extradata[0] != AVCC_VERSION:
        return None
    return (extradata[4] & 3) + 1


def is_dispensable(packet: memoryview, size_bytes: int) -> bool:
    """Whether no other picture refers to the packet's, and it brings no parameter sets.

    All of its NAL units say so (nal_ref_idc 0). One that is not laid out as it should be says nothing.
    """
    place, slices = 0, 0
    while place + size_bytes < len(packet):
        head = place + size_bytes
        place = head + int.from_bytes(packet[place:head], "big")
        forbidden_bit, ref_idc, kind = packet[head] >> 7, packet[head] >> 5 & 3, packet[head] & 31
        if forbidden_bit or ref_idc or place == head:
            return False
        slices += kind in SLICES
    return slices > 0 and place == len(packet)


REORDERING_SECONDS = 1
"""Where a packet has no DTS: no later one is shown earlier than its PTS less this."""

READ_ON_SECONDS = 0.25
"""A keyframe this near is read on to, not sought: it may be shown only behind the frame that is wanted."""

KNOWN_FRAMES = 4096
"""PTS that are remembered behind the place of reading."""

UNFED_BYTES = 32 * 1024 * 1024
"""Packets are held up to this size: a group may be as long as the video."""


class PacketReader:
    """The place of reading in an open container; not safe for several threads."""

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
        self._progress = progress
        self._reordering_ticks = int(REORDERING_SECONDS / time_base)
        self._read_on_ticks = int(READ_ON_SECONDS / time_base)
        self._late_ticks = 0
        self.forget()

    def forget(self) -> None:
        """Forget the place: the next use must be ``start_before``."""
        self._packets: Iterator[VideoPacket] = iter(())
        self._unfed: deque[VideoPacket] = deque()
        self._unfed_bytes = 0
        self._known: list[int] = []
        self._first: VideoPacket | None = None
        self._read_ticks: int | None = None
        self._end: BaseException | None = None
        self._at_end = True

    def holds(self, ticks: float) -> bool:
        """Whether the packets from the place of decoding on are the best way to the frame at ``ticks``.

        They are not if it lies before those, or if there is a keyframe well ahead of what was read.
        """
        tick = _nearest_tick(ticks)
        if self._first is None or self._read_ticks is None or pts_of(self._first) > tick:
            return False
        index = self._stream.index_entries
        key = index.search_timestamp(tick - self._late_ticks, backward=True)
        return key < 0 or index[key].timestamp <= self._read_ticks + self._read_on_ticks

    def note_keyframe(self, packet: VideoPacket) -> int:
        """Learn from a keyframe how much later than its DTS (which the index holds) it is shown."""
        if packet.dts is not None:
            self._late_ticks = max(self._late_ticks, pts_of(packet) - packet.dts)
        return self._late_ticks

    def start_before(self, ticks: float) -> None:
        """Go to the last keyframe that is shown at or before the nearest tick; else to the first.

        Demuxers seek by DTS: where frames are reordered the keyframe found may be shown later.
        """
        tick = _nearest_tick(max(ticks, 0.0))
        wanted, earlier = tick - self._late_ticks, None
        while True:
            self.forget()
            self._container.seek(wanted, stream=self._stream, backward=True)
            self._packets, self._at_end = self._container.demux(self._stream), False
            self._read()
            first = self._first
            if first is None or first.dts is None or pts_of(first) <= tick:
                return
            if earlier is not None and first.dts >= earlier:
                return
            wanted, earlier = first.dts - 1, first.dts

    def nearest(self, ticks: float) -> int | None:
        """PTS of the frame nearest to ``ticks``, the earlier of two.

        None if there is none from here on, or if too much is held to read on (``crowded``).
        """
        while True:
            nearest = _nearest_of(self._known, ticks)
            if self._at_end or (nearest is not None and self._none_nearer(nearest, ticks)):
                return nearest
            if self.crowded:
                return None
            self._read()

    @property
    def crowded(self) -> bool:
        """Whether packets must be decoded before more are read."""
        return self._unfed_bytes > UNFED_BYTES

    def skip_to_keyframe(self, pts: int) -> bool:
        """Drop unread packets that the frame at ``pts`` does not need; True if there were some."""
        keys = [n for n, packet in enumerate(self._unfed) if packet.is_keyframe and pts_of(packet) <= pts]
        if not keys or not keys[-1]:
            return False
        for _ in range(keys[-1]):
            self._unfed_bytes -= self._unfed.popleft().size
        self._first = self._unfed[0]
        return True

    def next_packet(self) -> VideoPacket | None:
        """The next one to decode; None at the end of the stream.

        Raises:
            RefusedError: it is damaged, or cut off.
            av.FFmpegError: reading failed.
        """
        if not self._unfed and not self._at_end:
            self._read()
        if not self._unfed:
            if self._end is not None:
                raise self._end
            return None
        packet = self._unfed.popleft()
        self._unfed_bytes -= packet.size
        _check_whole(packet)
        return packet

    def raise_end(self) -> None:
        """Raise what reading ended with, if it was an error."""
        if self._end is not None:
            raise self._end

    def _none_nearer(self, nearest: int, ticks: float) -> bool:
        distance = abs(nearest - ticks)
        # Within half a tick none can be; else those to come are shown at their DTS or later.
        return distance <= 0.5 or (self._read_ticks is not None and self._read_ticks + 1 >= ticks + distance)

    def _read(self) -> None:
        """Read one packet; what goes wrong is kept until the packet is wanted."""
        try:
            packet = next(self._packets, None)
            while packet is not None and not packet.size:
                packet = next(self._packets, None)
        except (av.FFmpegError, OSError) as error:
            self._end, packet = error, None
        if packet is None:
            self._at_end = True
            return
        self._progress()
        pts = pts_of(packet)
        self._unfed.append(packet)
        self._unfed_bytes += packet.size
        if self._first is None:
            self._first = packet
        if packet.is_keyframe:
            self.note_keyframe(packet)
        dts = packet.dts if packet.dts is not None else pts - self._reordering_ticks
        self._read_ticks = dts if self._read_ticks is None else max(dts, self._read_ticks)
        if not packet.is_discard:
            bisect.insort(self._known, pts)
            if len(self._known) > 2 * KNOWN_FRAMES:
                del self._known[:KNOWN_FRAMES]


def sound_packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    """The packets from the place of reading on, in file order.

    Raises:
        RefusedError: one is damaged, or cut off.
    """
    for packet in container.demux(stream):
        _check_whole(packet)
        if packet.size:
            yield packet


def _check_whole(packet: VideoPacket) -> None:
    if packet.is_corrupt:
        raise RefusedError("decode", "a packet is damaged or cut off; is the file complete?")


def _nearest_tick(ticks: float) -> int:
    """The earlier of two. Times lie a little beside their frames: cut off, one would miss its keyframe."""
    return math.ceil(ticks - 0.5)


def _nearest_of(known: list[int], ticks: float) -> int | None:
    after = bisect.bisect_left(known, ticks)
    near = known[max(after - 1, 0) : after + 1]
    return min(near, key=lambda pts: abs(pts - ticks), default=None)


def pts_of(packet: VideoPacket) -> int:
    """When the packet's frame is shown, in ticks.

    Raises:
        RefusedError: it does not say.
    """
    if packet.pts is None:
        raise RefusedError("read", "a packet has no PTS")
    return packet.pts


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
