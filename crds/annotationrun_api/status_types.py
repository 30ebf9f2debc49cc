"""What all models of the status share: the base, times, texts that are cut where the schema ends.

The API server refuses a status whose text is too long, and then shows nothing of it. So texts are cut here.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PlainSerializer

from annotationrun_api.spec_types import SpecModel

_CUT = "..."


class StatusModel(SpecModel):
    """A mapping of the status: frozen; fields that a newer operator wrote are left out when read."""

    model_config = ConfigDict(extra="ignore", strict=False)


def _cut_to(characters: int) -> Callable[[object], object]:
    def cut(text: object) -> object:
        if not isinstance(text, str) or len(text) <= characters:
            return text
        return text[: characters - len(_CUT)] + _CUT

    return cut


def _in_whole_seconds(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a time with its time zone")
    return time.astimezone(UTC).replace(microsecond=0)


def _rfc_3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, AfterValidator(_in_whole_seconds), PlainSerializer(_rfc_3339)]
"""A moment in whole seconds of UTC, as ``metav1.Time``."""

Text64 = Annotated[str, BeforeValidator(_cut_to(64)), Field(max_length=64)]
Text256 = Annotated[str, BeforeValidator(_cut_to(256)), Field(max_length=256)]
Text1024 = Annotated[str, BeforeValidator(_cut_to(1024)), Field(max_length=1024)]
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
JobName = Annotated[str, Field(max_length=63)]
Digest = Annotated[str, Field(max_length=64, pattern=r"^[0-9a-f]*$")]
"""SHA-256 in hexadecimal."""
Count = Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
"""A whole number that JSON readers keep exactly."""
