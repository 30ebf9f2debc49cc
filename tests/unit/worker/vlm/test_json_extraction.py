import json
import time

import pytest
from pydantic import BaseModel, ConfigDict
from tests.support.attacks import measured, row

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.vlm.json_extraction import (
    MAX_CHARACTERS,
    MAX_OBJECTS,
    THINKING,
    extract_object,
    last_fitting,
)


class Count(BaseModel):
    """What the model is asked for."""

    model_config = ConfigDict(extra="forbid")
    count: int


def count(number: int) -> str:
    return json.dumps({"count": number})


@pytest.mark.parametrize(("start", "end"), THINKING, ids=[start for start, _ in THINKING])
def test_what_is_thought_is_left_out_whatever_marks_it(start, end):
    said = f"{start}{count(5)}? Two are shadows.{end}{count(3)}{start}or {count(4)}?"
    assert last_fitting(said, Count).count == 3


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(f"At first {count(5)}, but two are shadows:\n```json\n{count(3)}\n```", id="a builder"),
        pytest.param(f'{count(3)}\nconfidence: {{"sure": true}}', id="another object after it"),
        pytest.param(f'{{"count": 5,}} was wrong: {count(3)}', id="a broken builder"),
        pytest.param(f"{{count}} {{}} {count(3)} {{done}}", id="braces that are prose"),
        pytest.param(f"[{count(3)}]", id="a list of one"),
        pytest.param('{"count": 3.0}', id="a whole number as float"),
        pytest.param(f"I see [1] a cup, [2] a plate. {count(3)}", id="brackets that are prose"),
    ],
)
def test_the_answer_is_the_last_object_that_fits(said):
    assert last_fitting(said, Count).count == 3


@pytest.mark.parametrize(
    ("said", "named"),
    [
        pytest.param(f'{{"answer": {count(3)},}}', "a comma stands before a closing bracket", id="comma"),
        pytest.param(f'{{"answer": {count(3)} // sure\n}}', "JSON has no comments", id="comment"),
        pytest.param(f'{{// sure\n"answer": {count(3)}}}', "JSON has no comments", id="comment first"),
        pytest.param("{'count': 3}", "have to stand in double quotes", id="python"),
        pytest.param('{"count": 5, "count": 3}', "the key 'count' is there twice", id="duplicate key"),
        pytest.param('{"a": {"count": 5, "count": 3}}', "'count' is there twice", id="one inside"),
        pytest.param(f'{{"answer": {count(3)}', "no JSON object that is complete", id="cut off"),
        pytest.param(f'{count(3)} {{"count": 4', "no JSON object that is complete", id="the last cut off"),
        pytest.param(f'{count(3)} {{"count": 4,}}', "a comma stands before", id="the last broken"),
        pytest.param(f"[{count(3)}, {count(4)}]", "a list of 2 objects, expected one", id="a list of two"),
        pytest.param(json.dumps(count(3)), "holds no JSON object", id="within a string"),
        pytest.param(f'{{"answer": {count(3)}}}', "does not fit its schema: count", id="one level down"),
    ],
)
def test_what_is_no_answer_is_told_as_what_it_is(said, named):
    with pytest.raises(AnswerError, match=named):
        last_fitting(said, Count)


def test_text_that_can_not_be_stored_is_refused_in_the_answer_alone():
    assert last_fitting(r'{"count": 5, "a": "\ud800"} ' + count(3), Count).count == 3
    with pytest.raises(AnswerError, match="surrogates not allowed"):
        last_fitting(r'{"count": 5, "a": "\ud800"}', Count)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param('{"a": {"b": "}"}}', id="bare"),
        pytest.param('Sure! Here it is: {"a": {"b": "}"}} Anything else?', id="prose around it"),
        pytest.param('```json\n{"a": {"b": "}"}}\n```', id="in a fence"),
        pytest.param('<think>{"a": 1} or {"a": 2}?</think>{"a": {"b": "}"}}', id="thinking before it"),
        pytest.param(
            '{"a": 1} or {"a": 2}?</think>{"a": {"b": "}"}}', id="thinking whose start is in the prompt"
        ),
        pytest.param('<think>1</think>{"a": 1}<think>2</think>{"a": {"b": "}"}}', id="thinking twice"),
        pytest.param('{"a": {"b": "}"}}<think>is that {"a": 1}?', id="thinking after it"),
        pytest.param('{not json} but {"a": {"b": "}"}}', id="braces that are no object before it"),
    ],
)
def test_the_object_is_found(said):
    assert extract_object(said) == {"a": {"b": "}"}}


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("", id="nothing"),
        pytest.param("I can't see that.", id="prose"),
        pytest.param('{"a": 1', id="cut off"),
        pytest.param("[1, 2]", id="a list"),
        pytest.param('<think>{"a": 1}', id="thinking that never ends"),
        pytest.param('{"a": 1}</think>', id="thinking alone, its start in the prompt"),
    ],
)
def test_no_object_is_an_error_that_quotes_the_answer(said):
    with pytest.raises(AnswerError, match="holds no JSON object"):
        extract_object(said)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(r'{"a": "\ud800"}', id="an escaped lone surrogate"),
        pytest.param('{"a": "\ud800"}', id="a lone surrogate"),
        pytest.param(r'{"\udfff": 1}', id="one in a key"),
        pytest.param('{"a":' * 100_000, id="objects nested too deep"),
        pytest.param('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", id="lists nested too deep"),
        pytest.param('{"a": ' + "9" * 5000 + "}", id="an integer too long"),
        pytest.param('{"a": NaN}', id="NaN"),
        pytest.param('{"a": [-Infinity]}', id="infinity"),
        pytest.param('{"a": -1e999}', id="a number beyond all floats"),
    ],
)
def test_what_no_file_can_hold_is_an_error_that_can_be_printed(said):
    with pytest.raises(AnswerError, match="JSON can't be used") as raised:
        extract_object(said)
    assert len(str(raised.value).encode()) < 1000


def test_a_surrogate_pair_is_one_character():
    assert extract_object(r'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "said", ['{"a": "one\ttwo\nthree"}', r'{"a": "one\ttwo\nthree"}'], ids=["raw", "escaped"]
)
def test_tabs_and_ends_of_lines_are_taken(said):
    assert extract_object(said) == {"a": "one\ttwo\nthree"}


def test_an_object_with_an_end_of_line_in_its_text_is_not_mistaken_for_one_inside_it():
    assert extract_object('{"a": "one\ntwo", "b": {"c": []}}') == {"a": "one\ntwo", "b": {"c": []}}


@pytest.mark.parametrize(
    ("said", "named"),
    [
        pytest.param('{"a": "\x00"}', r"\u0000", id="raw"),
        pytest.param(r'{"a": ["x\u001b[0m"]}', r"\u001b", id="escaped"),
        pytest.param(r'{"a\b": 1}', r"\b", id="in a key"),
        pytest.param(r'{"a": "\\\u0001"}', r"\u0001", id="after a backslash"),
    ],
)
def test_other_control_characters_are_an_error(said, named):
    with pytest.raises(AnswerError, match="holds the character") as raised:
        extract_object(said)
    assert named in str(raised.value)


def test_a_backslash_before_letters_is_text():
    assert extract_object(r'{"a": "\\u0001 \\b"}') == {"a": r"\u0001 \b"}


LONG = 200_000
"""Characters of an answer of a model that has lost its way, or of a server that wants to keep us busy."""
BUSY_SECONDS = 1.0
"""Of the processor: the event loop does nothing else meanwhile."""


class Labels(BaseModel):
    """A list, which has a fault for each of its parts."""

    model_config = ConfigDict(extra="forbid")
    labels: list[str]


def repeated(piece: str) -> str:
    return piece * (LONG // len(piece))


ENDLESS = {
    "empty objects": repeated("{}"),
    "empty objects on lines": repeated("{}\n"),
    "objects of another shape": repeated('{"a":1}'),
    "broken objects": repeated("{'}"),
    "broken objects on lines": repeated("{'}\n"),
    "objects that never end": repeated('{"a":'),
    "objects that never end in a list": repeated('[{"a":'),
    "braces that open": repeated("{"),
    "braces that open before quotes": repeated('{"'),
    "braces that open before space": repeated("{" + " " * 99),
    "braces that close": repeated("}"),
    "comments": repeated("{#}"),
    "broken lists": repeated("[{]}"),
    "lists of lists": repeated("[{}],"),
    "a list of objects": "[" + repeated("{},") + "{}]",
    "a text that never ends": '{"a": "' + repeated("b"),
    "backslashes": '{"a": "' + repeated("\\"),
    "backslashes in a text": '{"a": "' + repeated("\\\\") + '"}',
    "brackets in a text": '{"a": "' + repeated("{[") + '"',
    "a key twice, the last of many": json.dumps({str(n): 0 for n in range(LONG // 10)})[:-1]
    + ', "19999": 1}',
    "keys that are too many": json.dumps({str(n): 0 for n in range(LONG // 12)}),
    "a key that is too long": json.dumps({"k" * LONG: 0}),
    "a long key twice": '{"' + "k" * (LONG // 2) + '": 0, "' + "k" * (LONG // 2) + '": 1}',
    "a list of the wrong type": '{"labels": [' + repeated("0,") + "0]}",
    "long numbers": '{"labels": [' + repeated("9" * 4000 + ",") + "0]}",
    "thinking that begins": repeated("<think>"),
    "thinking that ends": repeated("</think>"),
    "thinking in all words": repeated("".join(start + end for start, end in THINKING)),
}


@pytest.mark.parametrize("said", [pytest.param(said, id=name) for name, said in ENDLESS.items()])
@pytest.mark.parametrize("answer_type", [Count, Labels])
def test_a_long_answer_keeps_nobody_busy(printed, request, said, answer_type):
    with measured() as cost:
        started = time.process_time()
        with pytest.raises(AnswerError) as raised:
            last_fitting(said, answer_type)
        busy = time.process_time() - started
    row(printed, f"answer of 200 KB: {request.node.callspec.id}", type(raised.value).__name__, cost)
    assert busy < BUSY_SECONDS
    assert cost.more_mebibytes < 128
    assert len(str(raised.value)) < 2000


def test_an_answer_that_is_too_long_is_not_looked_at():
    fits = count(3)
    assert last_fitting(fits + " " * 2 * MAX_CHARACTERS, Count).count == 3, "space is no answer"
    assert last_fitting("<think>" + "x" * MAX_CHARACTERS + "</think>" + fits, Count).count == 3
    text = "x" * (MAX_CHARACTERS - len(fits))
    assert last_fitting(text + fits, Count).count == 3
    with pytest.raises(AnswerError, match=f"{MAX_CHARACTERS + 1} characters, more than {MAX_CHARACTERS}"):
        last_fitting("x" + text + fits, Count)


@pytest.mark.parametrize("builder", [count(5), '{"count": 5,}', '[{"count": 5},,]', "[[{}]]"])
def test_so_many_objects_and_no_more_are_tried(builder):
    drafts = f"{builder}\n" * (MAX_OBJECTS - 1)
    assert last_fitting(drafts + count(3), Count).count == 3
    with pytest.raises(AnswerError, match=f"more than {MAX_OBJECTS} JSON objects, expected one"):
        last_fitting(drafts + builder + count(3), Count)
