"""The demo model's answers to questions without pictures: from lines of the prompt such as ``Task: ...``."""

import re
from itertools import islice, product
from typing import Any

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
