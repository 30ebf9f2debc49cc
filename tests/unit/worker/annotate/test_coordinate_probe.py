"""In which scale a model answers, told from boxes of known squares."""

import io

import pytest
from PIL import Image

from annotationrun_worker.annotate.coordinate_probe import (
    HEIGHT,
    SQUARES,
    WIDTH,
    answered_scale,
    draw_probe,
    overlap,
)

PIXELS = [list(map(float, box)) for box in SQUARES.values()]
THOUSANDTHS = [
    [x1 / WIDTH * 1000, y1 / HEIGHT * 1000, x2 / WIDTH * 1000, y2 / HEIGHT * 1000]
    for x1, y1, x2, y2 in PIXELS
]


@pytest.mark.parametrize(
    ("boxes", "scale"),
    [
        pytest.param(PIXELS, "Pixels", id="pixels"),
        pytest.param(THOUSANDTHS, "Thousandths", id="thousandths"),
        pytest.param([[v + 12 for v in box] for box in PIXELS], "Pixels", id="a little off"),
        pytest.param(
            [[v - 15 for v in box] for box in THOUSANDTHS], "Thousandths", id="thousandths, a little off"
        ),
        pytest.param(PIXELS[1:], "Pixels", id="one square missed"),
        pytest.param([*PIXELS[:2], [0.0, 0.0, 9.0, 9.0]], "Pixels", id="one box wrong"),
        pytest.param(PIXELS[:1], None, id="two squares missed"),
        pytest.param([PIXELS[0]] * 3, None, id="the same square three times"),
        pytest.param([[v / 1000 for v in box] for box in THOUSANDTHS], None, id="parts of one"),
        pytest.param([[y1, x1, y2, x2] for x1, y1, x2, y2 in PIXELS], None, id="axes swapped"),
        pytest.param([], None, id="no box"),
    ],
)
def test_the_scale_is_told_from_the_boxes(boxes, scale):
    assert answered_scale(boxes) == scale


def test_no_square_is_found_in_the_other_scale():
    others = [(box, square) for box in THOUSANDTHS for square in PIXELS]
    assert max(overlap(box, square) for box, square in others) < 0.1


def test_the_picture_shows_each_square_in_its_place():
    picture = Image.open(io.BytesIO(draw_probe()))
    assert picture.size == (WIDTH, HEIGHT)
    for number, (x1, y1, x2, y2) in enumerate(SQUARES.values()):
        inside = picture.getpixel(((x1 + x2) // 2, (y1 + y2) // 2))
        assert max(range(3), key=inside.__getitem__) == number, "red, green, blue in this order"
        red, green, blue = picture.getpixel((x1 - 12, y1 - 12))
        assert max(red, green, blue) - min(red, green, blue) < 12
