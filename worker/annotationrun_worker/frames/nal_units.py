"""Which H.264 packets no other one needs, told by the heads of their NAL units: pure.

Format: ISO/IEC 14496-15 (the decoder configuration ``avcC``; NAL units behind their lengths) and ITU-T H.264,
7.3.1 and 7.4.1 (the head of a NAL unit).
"""

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
