"""How a manifest's problems are put into words: paths, values that are safe to show, next steps."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, get_args, get_origin

from annotationrun_api.spec_fields import FieldType
from annotationrun_api.yaml_document import join_path

Loc = tuple[str | int, ...]
"""A path as pydantic has it: YAML names, keys and list indices."""

_SHOWN_CHARACTERS = 80
_SECRET_NAME = re.compile(r"secret|password|credential|api_?key|token(secretref)?$", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"\b(hf_|sk-|ghp_|AKIA)[A-Za-z0-9_-]{8,}|://\S*[@?#]|^Bearer ")


def format_path(loc: Loc) -> str:
    """``spec.model.serving.endpoints[0]``."""
    path = ""
    for part in loc:
        path = f"{path}[{part}]" if isinstance(part, int) else join_path(path, part)
    return path


def describe_value(value: object, loc: Loc) -> str:
    """What was got; texts are cut, and not shown where they may be a secret."""
    if value is None:
        return "null (no value)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        if _SECRET_VALUE.search(value) or any(
            isinstance(part, str) and _SECRET_NAME.search(part) for part in loc
        ):
            return "a text (not shown, it may be a secret)"
        return (
            repr(value)
            if len(value) <= _SHOWN_CHARACTERS
            else f"{value[:_SHOWN_CHARACTERS]!r}... ({len(value)} characters)"
        )
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return f"a mapping of {len(value)}" if isinstance(value, dict) else type(value).__name__


RENAMED: Final[Mapping[str, str]] = {"maxHolesPercent": "maxUnansweredPercent"}
"""What fields of earlier versions are called now; the table of all old words is in CHANGELOG.md."""


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, whatever its case and underscores; None if none is near."""
    by_fold = {_fold(candidate): candidate for candidate in names}
    close = difflib.get_close_matches(_fold(name), by_fold, n=1, cutoff=0.75)
    return by_fold[close[0]] if close else None


def _fold(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def next_step_for(value: object, field_type: FieldType) -> str:
    """What to do about a value that its type refuses."""
    if (quoting := _quoting(value, field_type)) is not None:
        return quoting
    if get_origin(field_type.base) is Literal:
        near = nearest(value, get_args(field_type.base)) if isinstance(value, str) else None
        return f"did you mean {near!r}?" if near else "write one of these, exactly"
    if value is None:
        return "remove the field, or give it a value; '{}' is a mapping with every default"
    default = default_of(field_type)
    return "correct it" if default is None else f"correct it, or leave it out for the default {default}"


def _quoting(value: object, field_type: FieldType) -> str | None:
    if isinstance(value, str) and field_type.base in {int, float, bool}:
        if re.fullmatch(r"\s*[-+]?[0-9.]+\s*|true|false", value, re.IGNORECASE):
            return (
                "remove the quotes" if field_type.base is not bool else "write true or false without quotes"
            )
        if field_type.base is bool and value.casefold() in {"yes", "no", "on", "off", "y", "n"}:
            return f"write {'true' if value.casefold() in {'yes', 'on', 'y'} else 'false'}"
    if field_type.base is str and isinstance(value, int | float) and not isinstance(value, bool):
        return "put it in quotes if it is meant as a text"
    return None


def default_of(field_type: FieldType) -> str | None:
    """The default as YAML; None for a required field, an item, or null."""
    if field_type.field is None or field_type.field.is_required() or field_type.model is not None:
        return None
    default = field_type.field.get_default(call_default_factory=True, validated_data={})
    return None if default is None else default if isinstance(default, str) else json.dumps(default)
