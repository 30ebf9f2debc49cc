"""Shapes of the VQA answers (LeRobot's keys), and the checks a schema can't make."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from annotationrun_api.spec_modules import QuestionType
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.modules.base import AnySentence, Label, Sentence

CoordinateScale = Literal["Pixels", "Thousandths"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Detection(_Answer):
    """One box."""

    label: Label
    bbox_format: Literal["xyxy"]
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]


class BboxAnswer(_Answer):
    """Boxes; none is a right answer."""

    detections: list[Detection]


class KeypointAnswer(_Answer):
    """A point."""

    label: Label
    point_format: Literal["xy"]
    point: Annotated[list[float], Field(min_length=2, max_length=2)]


class CountAnswer(_Answer):
    """How many."""

    label: Label
    count: Annotated[int, Field(ge=0)]
    note: AnySentence | None = None


class AttributeAnswer(_Answer):
    """A property of one thing."""

    label: Label
    attribute: Label
    value: Label


class SpatialAnswer(_Answer):
    """Where one thing is to another."""

    subject: Label
    relation: Literal["left_of", "right_of", "on", "in", "above", "below", "near"]
    object: Label


class VqaAnswer(_Answer):
    """A question and its answer; each type narrows ``answer``."""

    question: Sentence
    answer: Any


class _BboxPair(VqaAnswer):
    answer: BboxAnswer


class _KeypointPair(VqaAnswer):
    answer: KeypointAnswer


class _CountPair(VqaAnswer):
    answer: CountAnswer


class _AttributePair(VqaAnswer):
    answer: AttributeAnswer


class _SpatialPair(VqaAnswer):
    answer: SpatialAnswer


ANSWER_TYPES: Mapping[QuestionType, type[VqaAnswer]] = {
    "bbox": _BboxPair,
    "keypoint": _KeypointPair,
    "count": _CountPair,
    "attribute": _AttributePair,
    "spatial": _SpatialPair,
}


@dataclass(frozen=True, slots=True)
class ImageSpace:
    """The image an answer speaks of, and the unit its coordinates come in."""

    width_pixels: int
    height_pixels: int
    scale: CoordinateScale

    def to_pixels(self, coordinates: list[float]) -> list[float]:
        """``[x, y, x, y, ...]`` in pixels, to a tenth; whole numbers as integers."""
        sides = (self.width_pixels, self.height_pixels)
        per_unit = [side / 1000 if self.scale == "Thousandths" else 1.0 for side in sides]
        pixels = [round(value * per_unit[axis % 2], 1) for axis, value in enumerate(coordinates)]
        return [int(value) if value.is_integer() else value for value in pixels]


def to_answer(pair: VqaAnswer, space: ImageSpace) -> dict[str, Any]:
    """The answer as it is stored, coordinates in pixels.

    Raises:
        AnswerError: a box is not ordered, or something lies outside the image.
    """
    answer: dict[str, Any] = pair.answer.model_dump(exclude_none=True)
    match pair.answer:
        case BboxAnswer():
            for detection in answer["detections"]:
                detection["bbox"] = space.to_pixels(detection["bbox"])
                _check_box(detection["label"], detection["bbox"], space)
        case KeypointAnswer():
            answer["point"] = space.to_pixels(answer["point"])
            x, y = answer["point"]
            if not (0 <= x <= space.width_pixels and 0 <= y <= space.height_pixels):
                raise AnswerError(f"the point {answer['point']} lies outside {_size(space)}")
    return answer


def _check_box(label: str, box: list[float], space: ImageSpace) -> None:
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        raise AnswerError(f"the box {box} of {label!r} is not [left, top, right, bottom]")
    if x1 < 0 or y1 < 0 or x2 > space.width_pixels or y2 > space.height_pixels:
        raise AnswerError(f"the box {box} of {label!r} lies outside {_size(space)}")


def _size(space: ImageSpace) -> str:
    return f"the image of {space.width_pixels}x{space.height_pixels} pixels"
