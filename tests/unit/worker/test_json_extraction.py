import pytest

from annotationrun_worker.errors import AnswerError
from annotationrun_worker.vlm.json_extraction import extract_object


@pytest.mark.parametrize(
    "said",
    [
        pytest.param('{"a": {"b": "}"}}', id="bare"),
        pytest.param('Sure! Here it is: {"a": {"b": "}"}} Anything else?', id="prose around it"),
        pytest.param('```json\n{"a": {"b": "}"}}\n```', id="in a fence"),
        pytest.param('<think>{"a": 1} or {"a": 2}?</think>{"a": {"b": "}"}}', id="thinking before it"),
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
    ],
)
def test_no_object_is_an_error_that_quotes_the_answer(said):
    with pytest.raises(AnswerError, match="holds no JSON object"):
        extract_object(said)
