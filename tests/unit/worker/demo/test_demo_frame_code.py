"""The pixel code reads back at every size it is used at."""

import io

import numpy as np
import pytest
from PIL import Image

from annotationrun_worker.demo import frame_code

NUMBERS = (0, 1, 77, 3500, 0x5555, 0xAAAA, 65535)


@pytest.mark.parametrize("camera", [0, 1])
@pytest.mark.parametrize("index", NUMBERS)
def test_a_reference_frame_reads_back_at_every_size(index, camera):
    picture = Image.fromarray(frame_code.render(index, camera, index % 6))
    for width, height in ((320, 240), (224, 168), (112, 84)):
        tile = picture.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        tile.save(buffer, "JPEG", quality=84)
        read = frame_code.read(np.asarray(Image.open(buffer)))
        assert read == {"index": index, "camera": camera, "episode": index % 6}


def test_a_strip_of_another_size_is_the_same_code():
    canvas = np.zeros((360, 480), np.uint8)
    canvas[252:] = frame_code.code_strip(1234, 1, 5, (480, 108))
    assert frame_code.read(canvas) == {"index": 1234, "camera": 1, "episode": 5}


def test_channels_first_and_floats_read_the_same():
    picture = frame_code.render(42, 1, 3)
    expected = {"index": 42, "camera": 1, "episode": 3}
    assert frame_code.read(picture.transpose(2, 0, 1)) == expected
    assert frame_code.read(picture.transpose(2, 0, 1) / 255) == expected


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(np.zeros((168, 224, 3), np.uint8), id="black"),
        pytest.param(np.full((240, 320, 3), 128, np.uint8), id="grey"),
        pytest.param(frame_code.render(3, 0, 0)[::-1], id="upside down"),
    ],
)
def test_a_picture_without_a_code_reads_as_none(picture):
    assert frame_code.read(picture) is None


def test_a_strip_that_is_not_made_of_whole_blocks_is_refused():
    with pytest.raises(ValueError, match="100x30 px, expected multiples of 16 and 3"):
        frame_code.code_strip(0, 0, 0, (100, 30))
