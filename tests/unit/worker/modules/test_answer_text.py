import pytest
from pydantic import TypeAdapter, ValidationError

from annotationrun_worker.modules.base import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_LABEL_CHARACTERS,
    MAX_MEMORY_CHARACTERS,
    MAX_SENTENCE_CHARACTERS,
    MAX_TASK_CHARACTERS,
    AnyLabel,
    AnySentence,
    AnyTask,
    AnyText,
    Description,
    Label,
    LabelLine,
    Line,
    MemoryLine,
    Sentence,
    SentenceLine,
    TaskLine,
    Text,
)


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


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (AnyLabel, MAX_LABEL_CHARACTERS),
        (Label, MAX_LABEL_CHARACTERS),
        (LabelLine, MAX_LABEL_CHARACTERS),
        (AnySentence, MAX_SENTENCE_CHARACTERS),
        (Sentence, MAX_SENTENCE_CHARACTERS),
        (SentenceLine, MAX_SENTENCE_CHARACTERS),
        (AnyTask, MAX_TASK_CHARACTERS),
        (TaskLine, MAX_TASK_CHARACTERS),
        (MemoryLine, MAX_MEMORY_CHARACTERS),
        (Description, MAX_DESCRIPTION_CHARACTERS),
    ],
)
def test_a_text_may_be_as_long_as_its_kind_allows_and_no_longer(kind, limit):
    adapter = TypeAdapter(kind)
    assert adapter.validate_python(f"  {'x' * limit}\n") == "x" * limit
    with pytest.raises(ValidationError, match=f"it has {limit + 1} characters, expected .* at most {limit} "):
        adapter.validate_python("x" * (limit + 1))
    assert "maxLength" not in adapter.json_schema(), "a server's grammar would cut it, and it would pass"


def test_a_line_is_measured_without_the_space_that_goes():
    assert (
        TypeAdapter(LabelLine).validate_python(" ".join(["a"] * 9) + " " * 900 + "b") == "a a a a a a a a a b"
    )
