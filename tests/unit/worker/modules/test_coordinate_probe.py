"""In which scale a model answers, told from boxes of known squares."""

import io

import pytest
from PIL import Image

from annotationrun_worker.modules.coordinates import (
    answered_scale,
    draw_probe,
    overlap,
    shrunk_to,
    squares_in,
)

SIZE = WIDTH, HEIGHT = 640, 480
SQUARES = squares_in(SIZE)
SIZES = [SIZE, (320, 240), (64, 48), (1280, 720), (1000, 1000), (480, 640)]
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
    for expected in ("Pixels", "Thousandths"):
        assert answered_scale(boxes, SIZE, expected) == scale


def test_where_both_scales_fit_it_is_the_one_that_is_expected():
    boxes = [list(map(float, box)) for box in squares_in((1000, 1000)).values()]
    for expected in ("Pixels", "Thousandths"):
        assert answered_scale(boxes, (1000, 1000), expected) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("part", [0.5, 0.66, 0.9, 0.95])
def test_boxes_of_a_picture_that_was_shrunk_are_told_with_its_size(size, part):
    boxes = {colour: [value * part for value in box] for colour, box in squares_in(size).items()}
    assert shrunk_to(boxes, size) == tuple(round(side * part) for side in size)
    del boxes["blue"]
    assert shrunk_to(boxes, size) is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda value: value, id="as it is"),
        pytest.param(lambda value: value * 0.98, id="a little off"),
        pytest.param(lambda value: value * 1.5, id="enlarged"),
        pytest.param(lambda value: 3, id="one point"),
        pytest.param(lambda value: 0, id="nothing"),
        pytest.param(lambda value: value / 640, id="parts of one"),
    ],
)
def test_other_boxes_are_not_taken_for_those_of_a_picture_that_was_shrunk(size, change):
    boxes = {colour: list(map(change, box)) for colour, box in squares_in(size).items()}
    assert shrunk_to(boxes, size) is None


def test_no_square_is_found_in_the_other_scale():
    others = [(box, square) for box in THOUSANDTHS for square in PIXELS]
    assert max(overlap(box, square) for box, square in others) < 0.1


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_shows_each_square_in_its_place(size):
    picture = Image.open(io.BytesIO(draw_probe(size)))
    assert picture.size == size
    margin = max(4, size[0] // 54)
    for number, (x1, y1, x2, y2) in enumerate(squares_in(size).values()):
        inside = picture.getpixel(((x1 + x2) // 2, (y1 + y2) // 2))
        assert max(range(3), key=inside.__getitem__) == number, "red, green, blue in this order"
        red, green, blue = picture.getpixel((x1 - margin, y1 - margin))
        assert max(red, green, blue) - min(red, green, blue) < 12
