"""The JSON shapes of VQA answers (those of lerobot 0.6.1's annotation pipeline), and what we ask beyond."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NoReturn, TypeGuard

QuestionType = Literal["bbox", "keypoint", "count", "attribute", "spatial"]

ANSWER_KEYS: Final[Mapping[QuestionType, frozenset[str]]] = {
    "bbox": frozenset({"detections"}),
    "keypoint": frozenset({"label", "point_format", "point"}),
    "count": frozenset({"label", "count"}),
    "attribute": frozenset({"label", "attribute", "value"}),
    "spatial": frozenset({"subject", "relation", "object"}),
}
"""The keys by which an answer's type is known; more keys are allowed, the first match in this order holds."""

RELATIONS: Final = frozenset({"left_of", "right_of", "on", "in", "above", "below", "near"})

ImageSize = tuple[int, int]
"""(width, height) in pixels."""


def question_type_of(answer: object) -> QuestionType | None:
    """The type whose keys the answer has; ``None`` if it has those of none."""
    if not isinstance(answer, dict):
        return None
    return next((kind for kind, keys in ANSWER_KEYS.items() if keys <= answer.keys()), None)


def answer_text_faults(text: str | None, image_size: ImageSize | None) -> list[str]:
    """Say what is wrong with the content of a vqa assistant row: no JSON, unsorted keys, shape, values."""
    if not text:
        return ["the answer is empty, expected JSON"]
    try:
        answer = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return [f"the answer is not JSON ({error}): {text[:120]!r}"]
    faults = answer_faults(answer, image_size)
    if json.dumps(answer) != json.dumps(answer, sort_keys=True):
        faults.append(f"the keys of the answer are not sorted: {text[:120]!r}")
    return faults


def answer_faults(
    answer: object, image_size: ImageSize | None, expected: QuestionType | None = None
) -> list[str]:
    """Say what is wrong with an answer: unknown shape, another type than expected, values out of range.

    Coordinates are pixels and lie in [0, width] and [0, height]; without ``image_size`` that is not checked.
    An empty list: nothing is wrong.
    """
    kind = question_type_of(answer)
    if not isinstance(answer, dict) or kind is None:
        shapes = "; ".join(f"{name}: {', '.join(sorted(keys))}" for name, keys in ANSWER_KEYS.items())
        return [f"the answer has no known shape, got {_short(answer)}, expected the keys of one of: {shapes}"]
    if expected is not None and kind != expected:
        return [f"asked for {expected}, answered as {kind}: {_short(answer)}"]
    return _FAULTS_OF[kind](answer, image_size)


def _bbox_faults(answer: Mapping[str, Any], size: ImageSize | None) -> list[str]:
    detections = answer["detections"]
    if not isinstance(detections, list):
        return [f"detections is {_short(detections)}, expected a list"]
    return [fault for detection in detections for fault in _detection_faults(detection, size)]


def _detection_faults(detection: object, size: ImageSize | None) -> list[str]:
    if not isinstance(detection, dict):
        return [f"a detection is {_short(detection)}, expected an object"]
    faults = _text_faults(detection, "label")
    if detection.get("bbox_format") != "xyxy":
        faults.append(f"bbox_format is {_short(detection.get('bbox_format'))}, expected 'xyxy'")
    box = detection.get("bbox")
    if not _is_numbers(box, 4):
        return [*faults, f"bbox is {_short(box)}, expected four numbers [x1, y1, x2, y2]"]
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        faults.append(f"bbox {box} is not ordered, expected x1 < x2 and y1 < y2")
    return faults + _outside_faults("bbox", (x1, x2), (y1, y2), size)


def _keypoint_faults(answer: Mapping[str, Any], size: ImageSize | None) -> list[str]:
    faults = _text_faults(answer, "label")
    if answer["point_format"] != "xy":
        faults.append(f"point_format is {_short(answer['point_format'])}, expected 'xy'")
    point = answer["point"]
    if not _is_numbers(point, 2):
        return [*faults, f"point is {_short(point)}, expected two numbers [x, y]"]
    return faults + _outside_faults("point", (point[0],), (point[1],), size)


def _count_faults(answer: Mapping[str, Any], size: ImageSize | None) -> list[str]:
    count = answer["count"]
    faults = _text_faults(answer, "label")
    if type(count) is not int or count < 0:
        faults.append(f"count is {_short(count)}, expected a whole number from 0")
    return faults


def _attribute_faults(answer: Mapping[str, Any], size: ImageSize | None) -> list[str]:
    return _text_faults(answer, "label", "attribute", "value")


def _spatial_faults(answer: Mapping[str, Any], size: ImageSize | None) -> list[str]:
    faults = _text_faults(answer, "subject", "object")
    if not isinstance(answer["relation"], str) or answer["relation"] not in RELATIONS:
        faults.append(f"relation is {_short(answer['relation'])}, expected one of {sorted(RELATIONS)}")
    return faults


_FAULTS_OF: Final[Mapping[QuestionType, Callable[[Mapping[str, Any], ImageSize | None], list[str]]]] = {
    "bbox": _bbox_faults,
    "keypoint": _keypoint_faults,
    "count": _count_faults,
    "attribute": _attribute_faults,
    "spatial": _spatial_faults,
}


def _text_faults(values: Mapping[str, Any], *names: str) -> list[str]:
    return [
        f"{name} is {_short(values.get(name))}, expected text"
        for name in names
        if not isinstance(values.get(name), str) or not values[name].strip()
    ]


def _outside_faults(
    what: str, xs: tuple[float, ...], ys: tuple[float, ...], size: ImageSize | None
) -> list[str]:
    if size is None:
        return []
    width, height = size
    if all(0 <= x <= width for x in xs) and all(0 <= y <= height for y in ys):
        return []
    return [f"{what} with x {list(xs)}, y {list(ys)} lies outside of the image of {width} x {height} pixels"]


def _is_numbers(value: object, count: int) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(number) in {int, float} and math.isfinite(number) for number in value)
    )


def _short(value: object) -> str:
    return repr(value)[:120]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
