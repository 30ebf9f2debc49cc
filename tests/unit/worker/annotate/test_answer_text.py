import pytest
from pydantic import TypeAdapter, ValidationError

from annotationrun_worker.annotate.answer_text import AnyText, Line, Text


@pytest.mark.parametrize(
    ("kind", "said", "taken"),
    [
        pytest.param(AnyText, "  \n ", "", id="any text: space alone is empty"),
        pytest.param(AnyText, " grasp\n it ", "grasp\n it", id="any text: space around it goes"),
        pytest.param(Text, " grasp\n it ", "grasp\n it", id="text: lines stay"),
        pytest.param(Line, " grasp\n \t it ", "grasp it", id="line: lines are joined"),
    ],
)
def test_space_around_text_goes(kind, said, taken):
    assert TypeAdapter(kind).validate_python(said) == taken


@pytest.mark.parametrize(
    "said", ["", " \n", "\x1c", "\u2003"], ids=["empty", "space", "separator", "em space"]
)
@pytest.mark.parametrize("kind", [Text, Line], ids=["text", "line"])
def test_blank_text_is_refused(kind, said):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(said)


@pytest.mark.parametrize("kind", [AnyText, Text, Line], ids=["any text", "text", "line"])
def test_a_lone_surrogate_is_refused(kind):
    with pytest.raises(ValidationError, match="unicode"):
        TypeAdapter(kind).validate_python("a \ud800 b")
