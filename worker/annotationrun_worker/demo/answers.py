"""The demo model's answers, by what it sees or by the text of the prompt.

The demo model's answers to questions without pictures: from lines of the prompt such as ``Task: ...``.

The demo model's answers: from what is seen in the pictures, or from the text where none is asked about.

Where nothing is recognised the answers say so: no boxes, a count of nought, the image itself.
"""

import re
from collections.abc import Callable, Mapping
from itertools import islice, pairwise, product
from typing import Any

from annotationrun_worker.demo.chat_request import BadRequestError, ChatRequest
from annotationrun_worker.demo.frame_code import read as read_code
from annotationrun_worker.demo.vision import Segment, Sight, Thing, TimedSight, find_segments, look
from annotationrun_worker.vlm.request import PROBE_KIND

_BEFORE = ("", "please ", "now ", "could you ", "kindly ", "next, ", "I want you to ", "go ahead and ")
_AFTER = ("", " now", " for me", ", thanks", " when you are ready")
_REPHRASINGS_OF_AXES = 3
_AXES = {
    "omit_arm": re.compile(r" with (?:the|your) (?:left |right )?(?:arm|hand|gripper)"),
    "omit_orientation": re.compile(r" (?:upright|upside down|lengthwise|sideways|face (?:up|down))"),
    "omit_grasp_method": re.compile(r" by (?:the|its) (?:handle|rim|edge|side|top)"),
}
"""What of a task belongs to an axis."""


def value_of(text: str, name: str) -> str | None:
    """What stands after ``<name>: `` in a line of ``text``; the last such line counts."""
    found = re.findall(rf"^{name}: *(.*\S)", text, re.MULTILINE)
    return str(found[-1]) if found else None


def rephrase_task(text: str) -> dict[str, Any]:
    """As many ways to ask for the task as the text wants (``exactly N``); object, action, goal stay."""
    wanted = re.search(r"exactly (\d+)", text)
    return {"rephrasings": _rephrased(_task_in(text), int(wanted[1]) if wanted else 1)}


def rephrase_axes(text: str) -> dict[str, Any]:
    """The task on five axes; an axis whose element the task lacks is empty."""
    task = _task_in(text)
    shortened = {axis: pattern.sub("", task) for axis, pattern in _AXES.items()}
    bare = task
    for pattern in _AXES.values():
        bare = pattern.sub("", bare)
    missing = sum(short != task for short in shortened.values())
    return {
        "synonym_paraphrase": _rephrased(task, _REPHRASINGS_OF_AXES),
        **{axis: [short] if short != task else [] for axis, short in shortened.items()},
        "combined_omissions": [bare] if missing > 1 else [],
    }


def extend_memory(text: str) -> dict[str, Any]:
    """The previous memory and the subtask just finished, in the first person and the past tense."""
    finished = value_of(text, "Finished subtask") or "nothing"
    previous = value_of(text, "Previous memory")
    sentence = f"I have finished this: {finished}."
    return {"memory": f"{previous} {sentence}" if previous else sentence}


def acknowledge(text: str) -> dict[str, Any]:
    """A short acknowledgement of the task."""
    return {"text": f"All right, I will {_lower_first(_task_in(text))}."}


def interject(text: str) -> dict[str, Any]:
    """A user who asks for the next subtask, and what the robot says to that."""
    following = value_of(text, "Next subtask") or _lower_first(_task_in(text))
    return {"interjection": f"Now {following}, please.", "speech": f"Sure, I will {following}."}


def _task_in(text: str) -> str:
    return (value_of(text, "Task") or "do what is asked").rstrip(".")


def _rephrased(task: str, count: int) -> list[str]:
    """Distinct and never the task itself; at most 39."""
    ways = (f"{before}{_lower_first(task)}{after}" for after, before in product(_AFTER, _BEFORE))
    return [way[0].upper() + way[1:] for way in islice(ways, 1, count + 1)]


def _lower_first(task: str) -> str:
    return task[:1].lower() + task[1:]


Answer = dict[str, Any]
_SPAN = re.compile(r"lasts from (\d+\.\d+) to (\d+\.\d+) s")
"""The part of the frames that a label is asked for."""


def answer(request: ChatRequest) -> Answer:
    """The answer object to ``request``, of the shape that its kind has.

    Raises:
        BadRequestError: the kind is unknown, or its pictures are missing.
    """
    if request.kind == PROBE_KIND:
        return _as_the_schema_says(request.schema)
    if request.kind in _FROM_TEXT:
        return _FROM_TEXT[request.kind](request.text)
    if request.kind not in _FROM_PICTURES:
        known = ", ".join(sorted({*_FROM_TEXT, *_FROM_PICTURES}))
        raise BadRequestError(f"this model can't answer {request.kind!r}; it answers {known}")
    if not request.images:
        raise BadRequestError(f"{request.kind!r} is asked without a picture")
    return _FROM_PICTURES[request.kind](request)


def _as_the_schema_says(schema: Mapping[str, Any]) -> Answer:
    """The first value that it allows for each property."""
    return {name: allowed["enum"][0] for name, allowed in schema["properties"].items()}


def _segments(request: ChatRequest) -> list[Segment]:
    timed = [TimedSight(t.seconds, look(t.pixels)) for t in request.tiles if t.seconds is not None]
    return find_segments(timed)


def _describe(request: ChatRequest) -> Answer:
    things = _things_of(request)
    seen = f"Seen are {', '.join(things)}. " if things else "Nothing is recognised. "
    events = " ".join(
        f"From {s.start_seconds:.2f} s to {s.end_seconds:.2f} s: {s.text}." for s in _segments(request)
    )
    return {"description": (seen + events).strip()}


def _things_of(request: ChatRequest) -> list[str]:
    sight = look(request.tiles[0].pixels)
    return [f"a {sight.name(thing)}" for thing in sight.things]


def _subtasks(request: ChatRequest) -> Answer:
    return {
        "subtasks": [
            {"text": s.text, "start": s.start_seconds, "end": s.end_seconds} for s in _segments(request)
        ]
    }


def _task(request: ChatRequest) -> Answer:
    places = [s.text for s in _segments(request) if s.text.startswith("place")]
    texts = places or [s.text for s in _segments(request)][:1]
    return {"task": " and ".join(texts).capitalize() if texts else "Nothing is recognised"}


def _label(request: ChatRequest) -> Answer:
    asked = _SPAN.search(request.text)
    start, end = (float(asked[1]), float(asked[2])) if asked else (0.0, float("inf"))
    within = max(
        _segments(request),
        key=lambda s: min(s.end_seconds, end) - max(s.start_seconds, start),
        default=None,
    )
    return {"label": within.text if within else value_of(request.text, "Label") or "nothing recognised"}


def _probe(request: ChatRequest) -> Answer:
    boxes = [
        {"label": thing.colour, "bbox_format": "xyxy", "bbox": list(thing.box)}
        for thing in _single(request).things
    ]
    return {"boxes": boxes}


def _bbox(request: ChatRequest) -> Answer:
    sight = _single(request)
    detections = [
        {"label": sight.name(thing), "bbox_format": "xyxy", "bbox": list(thing.box)} for thing in sight.things
    ]
    return {"question": "Where are the objects?", "answer": {"detections": detections}}


def _keypoint(request: ChatRequest) -> Answer:
    sight = _single(request)
    label, point = "centre of the image", [sight.width / 2, sight.height / 2]
    thing = _chosen(sight, request)
    if thing:
        label, point = sight.name(thing), [thing.centre_x, thing.centre_y]
    return {
        "question": f"Where is the {label}?",
        "answer": {"label": label, "point_format": "xy", "point": point},
    }


def _count(request: ChatRequest) -> Answer:
    sight = _single(request)
    label = "block" if sight.gripper else "square"
    count = len(sight.of_shape("block"))
    return {"question": f"How many {label}s are there?", "answer": {"label": label, "count": count}}


def _attribute(request: ChatRequest) -> Answer:
    sight = _single(request)
    thing = _chosen(sight, request)
    if thing is None:
        label, attribute, value = "image", "brightness", "bright" if sight.brightness > 127 else "dark"
    elif sight.gripper is None:
        label, attribute, value = "square", "colour", thing.colour
    else:
        label, attribute, value = sight.name(thing), "state", _state(sight, thing)
    return {
        "question": f"What {attribute} has the {label}?" if attribute != "state" else f"How is the {label}?",
        "answer": {"label": label, "attribute": attribute, "value": value},
    }


def _state(sight: Sight, thing: Thing) -> str:
    if thing.shape == "gripper":
        return "closed" if sight.fingers == "closed" else "open"
    if thing.shape == "pad":
        return "occupied" if thing in map(sight.pad_under, sight.of_shape("block")) else "empty"
    if thing == sight.held:
        return "held"
    return "on a pad" if sight.pad_under(thing) else "on the table"


def _spatial(request: ChatRequest) -> Answer:
    sight = _single(request)
    facts = _relations(sight, has_code=read_code(request.tiles[0].pixels) is not None)
    subject, relation, other = facts[request.pick % len(facts)]
    return {
        "question": f"Where is the {subject} relative to the {other}?",
        "answer": {"subject": subject, "relation": relation, "object": other},
    }


def _relations(sight: Sight, *, has_code: bool) -> list[tuple[str, str, str]]:
    """All (subject, relation, object) that hold, never none."""
    facts: list[tuple[str, str, str]] = []
    blocks = sight.of_shape("block")
    for block in blocks:
        pad = sight.pad_under(block)
        if pad:
            facts.append((sight.name(block), "on", sight.name(pad)))
    if sight.held:
        facts.append((sight.name(sight.held), "in", "gripper"))
    for left, right in pairwise(blocks):
        facts.append((sight.name(left), "left_of", sight.name(right)))
        facts.append((sight.name(right), "right_of", sight.name(left)))
    if has_code and not sight.gripper:
        facts += [(sight.name(thing), "above", "code strip") for thing in sight.things]
    return facts or [("nothing recognised", "in", "image")]


def _single(request: ChatRequest) -> Sight:
    return look(request.tiles[0].pixels)


def _chosen(sight: Sight, request: ChatRequest) -> Thing | None:
    return sight.things[request.pick % len(sight.things)] if sight.things else None


_FROM_PICTURES: Mapping[str, Callable[[ChatRequest], Answer]] = {
    "description": _describe,
    "subtasks": _subtasks,
    "task": _task,
    "label": _label,
    "coordinate_probe": _probe,
    "vqa_bbox": _bbox,
    "vqa_keypoint": _keypoint,
    "vqa_count": _count,
    "vqa_attribute": _attribute,
    "vqa_spatial": _spatial,
}
_FROM_TEXT: Mapping[str, Callable[[str], Answer]] = {
    "rephrasings": rephrase_task,
    "task_axes": rephrase_axes,
    "memory": extend_memory,
    "speech": acknowledge,
    "interjection": interject,
}
