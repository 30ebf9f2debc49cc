"""The demo model reads times off badges that survived JPEG."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from annotationrun_worker.demo import frame_code
from annotationrun_worker.demo.chat_request import badge_seconds, read_badge
from annotationrun_worker.modules.prompt_media import draw_badge

REPEATED = [float(f"{d}{d}{d}.{d}{d}") for d in range(10)]
DRAWN = [round(random.Random(5).uniform(0, 999.99), 2) for _ in range(60)]


def badged(seconds: float, index: int, width: int = 224) -> np.ndarray:
    tile = Image.fromarray(frame_code.render(index, index % 2, index % 6))
    tile = tile.resize((width, round(width * 0.75)), Image.Resampling.LANCZOS)
    draw_badge(tile, seconds)
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=84)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("width", [224, 112, 331])
@pytest.mark.parametrize("seconds", [*REPEATED, 12.5, 0.07, 100.0, 59.99])
def test_every_digit_is_read_at_every_place(seconds, width):
    badge = read_badge(badged(seconds, int(seconds), width))
    assert badge == f"{seconds:06.2f}s"
    assert badge_seconds(badge) == seconds


def test_drawn_times_are_read():
    for seconds in DRAWN:
        assert read_badge(badged(seconds, int(seconds * 3))) == f"{seconds:06.2f}s"


@pytest.mark.parametrize(
    "tile",
    [
        pytest.param(frame_code.render(10, 0, 0), id="a frame without a badge"),
        pytest.param(np.zeros((168, 224, 3), np.uint8), id="an unused, black tile"),
        pytest.param(np.full((168, 224, 3), 255, np.uint8), id="white"),
        pytest.param(np.zeros((10, 30, 3), np.uint8), id="smaller than a badge"),
    ],
)
def test_no_badge_reads_as_none(tile):
    assert read_badge(tile) is None
