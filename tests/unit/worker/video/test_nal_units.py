"""Which packets H.264 can do without, by the heads of their NAL units."""

import pytest

from annotationrun_worker.video.packets import is_dispensable, length_bytes

SEI, PPS = b"\x06\x05", b"\x68\xce"
B_SLICE, REFERENCE_SLICE, KEY_SLICE = b"\x01\x9e", b"\x41\x9a", b"\x65\x88"
FORBIDDEN = b"\x81\x9e"


def packet(*units, size_bytes=4):
    return b"".join(len(unit).to_bytes(size_bytes, "big") + unit for unit in units)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(packet(B_SLICE), True, id="a slice that none refers to"),
        pytest.param(packet(SEI, B_SLICE, B_SLICE), True, id="two of them behind a message"),
        pytest.param(packet(REFERENCE_SLICE), False, id="a slice that others refer to"),
        pytest.param(packet(B_SLICE, REFERENCE_SLICE), False, id="one of two slices is referred to"),
        pytest.param(packet(KEY_SLICE), False, id="a keyframe"),
        pytest.param(packet(PPS, B_SLICE), False, id="parameter sets beside it"),
        pytest.param(packet(SEI), False, id="no slice at all"),
        pytest.param(packet(FORBIDDEN), False, id="the bit that must not be set"),
        pytest.param(packet(B_SLICE)[:-1], False, id="cut off"),
        pytest.param(packet(B_SLICE) + b"\0", False, id="something behind it"),
        pytest.param(packet(B_SLICE, b"", B_SLICE), False, id="an empty unit"),
        pytest.param(b"\0\0\0\x01" + B_SLICE, False, id="start codes"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_only_a_packet_that_surely_none_needs_is_dispensable(content, expected):
    assert is_dispensable(memoryview(content), 4) is expected


def test_lengths_of_other_sizes_are_read():
    for size_bytes in (1, 2, 4):
        assert is_dispensable(memoryview(packet(SEI, B_SLICE, size_bytes=size_bytes)), size_bytes)


@pytest.mark.parametrize(
    ("extradata", "expected"),
    [
        pytest.param(b"\x01\x64\x00\x0a\xff\xe1", 4, id="four bytes"),
        pytest.param(b"\x01\x64\x00\x0a\xfd\xe1", 2, id="two bytes"),
        pytest.param(b"\0\0\0\x01\x67\x64", None, id="start codes"),
        pytest.param(b"", None, id="none"),
        pytest.param(b"\x01\x64", None, id="cut off"),
    ],
)
def test_the_size_of_the_lengths_is_told_by_the_configuration(extradata, expected):
    assert length_bytes(extradata) == expected
