"""Text in the model's answers: without space around it, and fit to be stored (no lone surrogates)."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints


def _not_blank(text: str) -> str:
    # pydantic's idea of space is narrower than that of str
    if not text.strip():
        raise ValueError("it is blank")
    return text.strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


AnyText = Annotated[str, StringConstraints(strip_whitespace=True)]
"""May be empty, where the module leaves out what is."""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_not_blank)]
Line = Annotated[Text, AfterValidator(_one_line)]
"""Text whose line breaks and runs of space become one space each."""
