"""The packets of a video stream, read ahead of the decoder: which frames there are near a time.

Reading costs next to nothing beside decoding, and tells every frame's PTS. So the frame wanted is known
before anything is decoded for it, and packets that it does not need are dropped.
"""

import bisect
import math
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from annotationrun_worker.frames.child_server import RefusedError

if TYPE_CHECKING:
    VideoPacket: TypeAlias = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in PyAV's stubs alone

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
