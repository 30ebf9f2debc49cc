"""What the models say about themselves: the type of a field in words, and every field by its path."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from annotationrun_api.spec_types import Expect, SpecModel, yaml_name


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type with its constraints, without `Annotated` and without ``| None``."""

    base: Any
    """A class, a `Literal`, a generic tuple or dict, or a union of scalars."""
    constraints: tuple[object, ...] = ()
    is_nullable: bool = False
    field: FieldInfo | None = None
    """The field that has the type; None for an item of a list or a mapping."""

    @property
    def model(self) -> type[SpecModel] | None:
        """The model, if the type is one."""
        return self.base if isinstance(self.base, type) and issubclass(self.base, SpecModel) else None


@cache
def field_types(model: type[SpecModel]) -> Mapping[str, FieldType]:
    """The fields of a model by YAML name, in their order."""
    return MappingProxyType({yaml_name(name): _of_field(field) for name, field in model.model_fields.items()})


def walk_fields(model: type[SpecModel], prefix: str) -> Iterator[tuple[str, FieldType]]:
    """Every field of a model and of the models in it, by path such as ``spec.source.path``, parents first."""
    for name, field_type in field_types(model).items():
        yield f"{prefix}.{name}", field_type
        if field_type.model is not None:
            yield from walk_fields(field_type.model, f"{prefix}.{name}")


def type_at(model: type[SpecModel], path: Sequence[str | int]) -> FieldType | None:
    """The type at a path of YAML names, keys and list indices; None where the models know none."""
    found: FieldType | None = FieldType(model)
    for part in path:
        found = child_type(found, part) if found else None
    return found


def child_type(parent: FieldType, part: str | int) -> FieldType | None:
    """The type of a field, of a mapping's value or of a list's item; None where there is none such."""
    if parent.model is not None:
        return field_types(parent.model).get(str(part))
    arguments = get_args(parent.base)
    if get_origin(parent.base) is dict:
        return _unwrap(arguments[1])
    if get_origin(parent.base) is tuple:
        return _unwrap(arguments[0])
    return None


def key_type(mapping: FieldType) -> FieldType | None:
    """The type of a mapping's keys; None if the type is no mapping."""
    return _unwrap(get_args(mapping.base)[0]) if get_origin(mapping.base) is dict else None


def describe_type(field_type: FieldType) -> str:
    """What the type accepts, for a person: ``a whole number from 1 to 64``."""
    text = next((item.text for item in field_type.constraints if isinstance(item, Expect)), None)
    text = text or _describe_base(field_type)
    return f"{text}; or null" if field_type.is_nullable else text


def _of_field(field: FieldInfo) -> FieldType:
    unwrapped = _unwrap(field.annotation)
    constraints = (*unwrapped.constraints, *field.metadata)
    return replace(unwrapped, constraints=constraints, field=field)


def _unwrap(annotation: Any) -> FieldType:  # noqa: ANN401 - any type expression
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        unwrapped = _unwrap(inner)
        flat = (
            part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])
        )
        return replace(unwrapped, constraints=(*unwrapped.constraints, *flat))
    if origin in {Union, UnionType}:
        members = [member for member in get_args(annotation) if member is not NoneType]
        if len(members) == 1:
            return replace(_unwrap(members[0]), is_nullable=True)
    return FieldType(annotation)


def _describe_base(field_type: FieldType) -> str:
    origin, arguments = get_origin(field_type.base), get_args(field_type.base)
    if origin is Literal:
        choices = ", ".join(arguments)
        return f"one of {choices}" if len(arguments) > 1 else choices
    if origin is tuple:
        return f"a list of{_sizes(field_type)} {describe_type(_unwrap(arguments[0]))}"
    if origin is dict:
        return f"a mapping of{_sizes(field_type)} names to values"
    if field_type.model is not None:
        return f"a mapping of {', '.join(field_types(field_type.model))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[field_type.base]
    if field_type.base is str:
        sizes = _sizes(field_type)
        return f"{words} of{sizes} characters" if sizes else words
    return words + _bounds(field_type)


def _bounds(field_type: FieldType) -> str:
    parts = []
    for item in field_type.constraints:
        if isinstance(item, annotated_types.Ge):
            parts.append(f"from {item.ge}")
        elif isinstance(item, annotated_types.Gt):
            parts.append(f"above {item.gt} and")
        elif isinstance(item, annotated_types.Le):
            parts.append(f"up to {item.le}")
    return "".join(f" {part}" for part in parts)


def _sizes(field_type: FieldType) -> str:
    least = next(
        (item.min_length for item in field_type.constraints if isinstance(item, annotated_types.MinLen)), 0
    )
    most = next(
        (item.max_length for item in field_type.constraints if isinstance(item, annotated_types.MaxLen)), None
    )
    return "" if most is None else f" {least} to {most}" if least else f" up to {most}"
