"""Staged rows as lines of JSON, and who owns which style."""

import json

import pytest

from annotationrun_worker.errors import StagingError
from annotationrun_worker.language.rows import (
    EVENT_STYLES,
    PERSISTENT_STYLES,
    STYLES_OF_MODULE,
    StagedRow,
    module_of,
    say_call,
    say_tool,
)

ROWS = [
    pytest.param(StagedRow(0, "user", "task_aug", "Stack the blocks"), id="the task, made without the model"),
    pytest.param(StagedRow(7, "assistant", "vqa", '{"count": 1}', "observation.images.top", None, "ab" * 32),
                 id="an answer with camera and request"),
    pytest.param(StagedRow(3, "assistant", None, None, tool_calls=(say_call("línea\nñ\u2028 \U0001f916"),)),
                 id="speech with letters of all kinds"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_row_comes_back_from_its_line(row: StagedRow) -> None:
    line = row.to_json()
    assert "\n" not in line
    assert list(json.loads(line)) == sorted(json.loads(line))
    assert StagedRow.from_json(line) == row
    assert StagedRow.from_json(line).to_json() == line


def edited(**values: object) -> str:
    row = json.loads(StagedRow(0, "user", "task_aug", "a").to_json())
    return json.dumps({name: value for name, value in (row | values).items() if value != "gone"})


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="half an object"),
        pytest.param("[]", id="a list"),
        pytest.param(edited(frame=-1), id="a frame below 0"),
        pytest.param(edited(frame=1.0), id="a frame that is no integer"),
        pytest.param(edited(frame=True), id="a truth value as frame"),
        pytest.param(edited(frame=float("nan")), id="NaN"),
        pytest.param(edited(role=None), id="no role"),
        pytest.param(edited(content=5), id="a number as content"),
        pytest.param(edited(tool_calls={}), id="tool calls that are no list"),
        pytest.param(edited(tool_calls=["say"]), id="a tool call that is no object"),
        pytest.param(edited(camera="gone"), id="a field is missing"),
        pytest.param(edited(timestamp=0.0), id="a field too many"),
    ],
)
def test_a_line_that_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(StagingError, match="staged row"):
        StagedRow.from_json(line)


@pytest.mark.parametrize(
    ("style", "module"),
    [
        ("subtask", "plan"), ("plan", "plan"), ("memory", "plan"), ("task_aug", "plan"),
        ("interjection", "interjections"), (None, "interjections"), ("vqa", "vqa"),
        ("motion", None), ("trace", None), ("unheard of", None),
    ],
)  # fmt: skip
def test_each_style_has_its_owner(style: str | None, module: str | None) -> None:
    assert module_of(style) == module


def test_modules_own_only_known_styles_and_no_two_the_same() -> None:
    owned = [style for styles in STYLES_OF_MODULE.values() for style in styles]
    assert len(owned) == len(set(owned))
    assert set(owned) <= PERSISTENT_STYLES | EVENT_STYLES


def test_the_say_tool_is_a_function_schema_with_a_required_text() -> None:
    function = say_tool()["function"]
    assert say_tool()["type"] == "function"
    assert function["name"] == say_call("")["function"]["name"] == "say"
    assert function["parameters"]["required"] == list(function["parameters"]["properties"]) == ["text"]
    assert say_tool() is not say_tool()
