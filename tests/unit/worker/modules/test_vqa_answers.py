import pytest
from pydantic import ValidationError

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.modules.vqa_answers import ANSWER_TYPES, ImageSpace, to_answer

PIXELS = ImageSpace(width_pixels=320, height_pixels=240, scale="Pixels")
THOUSANDTHS = ImageSpace(width_pixels=320, height_pixels=240, scale="Thousandths")


def pair(question_type, answer):
    return ANSWER_TYPES[question_type].model_validate({"question": "q?", "answer": answer})


def box(*corners, label="cup"):
    return {"detections": [{"label": label, "bbox_format": "xyxy", "bbox": list(corners)}]}


@pytest.mark.parametrize(
    ("question_type", "answer", "space", "expected"),
    [
        pytest.param("bbox", box(1, 2, 30.55, 40), PIXELS, box(1, 2, 30.6, 40), id="pixels"),
        pytest.param("bbox", box(0, 0, 500, 1000), THOUSANDTHS, box(0, 0, 160, 240), id="thousandths"),
        pytest.param("bbox", {"detections": []}, PIXELS, {"detections": []}, id="no box"),
        pytest.param(
            "keypoint",
            {"label": "tip", "point_format": "xy", "point": [500, 250]},
            THOUSANDTHS,
            {"label": "tip", "point_format": "xy", "point": [160, 60]},
            id="a point in thousandths",
        ),
        pytest.param(
            "count", {"label": "cups", "count": 3}, PIXELS, {"label": "cups", "count": 3}, id="count"
        ),
    ],
)
def test_answers_are_stored_in_pixels(question_type, answer, space, expected):
    assert to_answer(pair(question_type, answer), space) == expected


@pytest.mark.parametrize(
    ("question_type", "answer", "fault"),
    [
        pytest.param("bbox", box(30, 2, 1, 40), "is not", id="left and right swapped"),
        pytest.param("bbox", box(1, 2, 1, 40), "is not", id="no width"),
        pytest.param("bbox", box(1, 2, 321, 40), "outside", id="wider than the image"),
        pytest.param("bbox", box(-1, 2, 30, 40), "outside", id="left of the image"),
        pytest.param(
            "keypoint",
            {"label": "a", "point_format": "xy", "point": [1, 241]},
            "outside",
            id="below the image",
        ),
    ],
)
def test_what_can_not_be_is_refused(question_type, answer, fault):
    with pytest.raises(AnswerError, match=fault):
        to_answer(pair(question_type, answer), PIXELS)


@pytest.mark.parametrize(
    ("question_type", "answer"),
    [
        pytest.param("bbox", box(1, 2, 3, 4, label=" "), id="empty label"),
        pytest.param("bbox", box(1, 2, 3), id="three corners"),
        pytest.param("count", {"label": "cups", "count": 1.5}, id="one and a half"),
        pytest.param("count", {"label": "cups", "count": -1}, id="less than none"),
        pytest.param("spatial", {"subject": "a", "relation": "beside", "object": "b"}, id="unknown relation"),
        pytest.param("count", {"label": "a", "attribute": "b", "value": "c"}, id="answer of another type"),
    ],
)
def test_the_wrong_shape_is_refused(question_type, answer):
    with pytest.raises(ValidationError):
        pair(question_type, answer)
