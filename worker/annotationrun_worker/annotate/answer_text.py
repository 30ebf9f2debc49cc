"""Text in the model's answers: without space around it, fit to be stored, and no longer than its kind may be.

A model that is caught in a loop fills whatever its token limit leaves it. The limits here are several times
what a good answer needs, so that only such an answer is refused. They are checked when the answer is read,
and are no part of the JSON schema that the server gets: a grammar would cut the text at its limit, and the
cut text would pass for a good one.
"""

from typing import Annotated, Final

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

MAX_LABEL_CHARACTERS: Final = 300
"""Of what names one thing: a subtask, an object, a property, its value. The prompts ask for a short
imperative or a name; a careful one that also tells colour, place and arm has about 100 characters."""
MAX_SENTENCE_CHARACTERS: Final = 1_000
"""Of what is said or asked: an interjection, speech, a question, a note. The prompts ask for one short
sentence; 1,000 characters take a minute to speak."""
MAX_TASK_CHARACTERS: Final = 2_000
"""Of a task that is derived, and of the variants of one: they are as long as the task itself, and a dataset
may spell its own out in a paragraph."""
MAX_MEMORY_CHARACTERS: Final = 4_000
"""Of the memory, which grows with each subtask: a sentence for each of some forty subtasks. The next memory
is made from it, so one that has run wild would spoil all that follow."""
MAX_DESCRIPTION_CHARACTERS: Final = 8_000
"""Of the description of a window: some hundred characters for each of 60 frames. It becomes part of the next
prompt, where it takes about 2,000 tokens."""


def _not_blank(text: str) -> str:
    # pydantic's idea of space is narrower than that of str
    if not text.strip():
        raise ValueError("it is blank")
    return text.strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _at_most(characters: int, kind: str) -> AfterValidator:
    """Refuses a text that is longer; ``kind`` says what it should have been."""

    def check(text: str) -> str:
        if len(text) <= characters:
            return text
        raise PydanticCustomError(
            "text_too_long",
            "it has {length} characters, expected {kind} of at most {limit}",
            {"length": len(text), "kind": kind, "limit": characters},
        )

    return AfterValidator(check)


AnyText = Annotated[str, StringConstraints(strip_whitespace=True)]
"""May be empty, where the module leaves out what is."""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_not_blank)]
Line = Annotated[Text, AfterValidator(_one_line)]
"""Text whose line breaks and runs of space become one space each."""

_LABEL = _at_most(MAX_LABEL_CHARACTERS, "a short label")
_SENTENCE = _at_most(MAX_SENTENCE_CHARACTERS, "one short sentence")
_TASK = _at_most(MAX_TASK_CHARACTERS, "one instruction")

AnyLabel = Annotated[AnyText, _LABEL]
Label = Annotated[Text, _LABEL]
LabelLine = Annotated[Line, _LABEL]
AnySentence = Annotated[AnyText, _SENTENCE]
Sentence = Annotated[Text, _SENTENCE]
SentenceLine = Annotated[Line, _SENTENCE]
AnyTask = Annotated[AnyText, _TASK]
TaskLine = Annotated[Line, _TASK]
MemoryLine = Annotated[Line, _at_most(MAX_MEMORY_CHARACTERS, "one or two sentences")]
Description = Annotated[Text, _at_most(MAX_DESCRIPTION_CHARACTERS, "a description")]
