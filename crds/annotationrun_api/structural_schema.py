"""A model as a structural OpenAPI v3 schema, as a CustomResourceDefinition takes it.

The rules of such schemas: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/
custom-resource-definitions/. Nothing is nullable: the API server drops a null, or puts the default in its
place, which is what null means in a manifest. So CEL rules see a null as absent.
"""

from datetime import datetime
from typing import Any, Literal, TypeVar, get_args, get_origin

import annotated_types
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from annotationrun_api.schema_marks import Cel, IntOrString, ListMap, SchemaPattern
from annotationrun_api.spec_fields import FieldType, child_type, describe_type, field_types, key_type
from annotationrun_api.spec_types import Rule, SpecModel

_INEXACT = 1 << 53
Mark = TypeVar("Mark")
Schema = dict[str, Any]
"""A schema as JSON values, in the order in which it is written."""


def object_schema(model: type[SpecModel], *, with_defaults: bool) -> Schema:
    """The schema of a model. The API server fills in defaults where they are given."""
    types = field_types(model)
    schema: Schema = {"type": "object"}
    schema["properties"] = {
        name: _property(field_type, with_defaults=with_defaults) for name, field_type in types.items()
    }
    if required := [name for name, field_type in types.items() if _field(field_type).is_required()]:
        schema["required"] = required
    if model.rules:
        schema["x-kubernetes-validations"] = [_validation(rule) for rule in model.rules]
    return schema


def _field(field_type: FieldType) -> FieldInfo:
    if field_type.field is None:
        raise TypeError(f"{field_type.base} is an item, not a field")
    return field_type.field


def _validation(rule: Rule) -> Schema:
    return {
        "rule": rule.cel,
        "message": f"expected {rule.expected}; {rule.next_step}",
        "fieldPath": f".{rule.field}",
    }


def _property(field_type: FieldType, *, with_defaults: bool) -> Schema:
    field = _field(field_type)
    schema: Schema = {"description": field.description}
    if field_type.model is not None:
        schema |= object_schema(field_type.model, with_defaults=with_defaults)
    else:
        schema |= value_schema(field_type, with_defaults=with_defaults)
    if with_defaults and (default := _default(field_type, schema)) is not None:
        schema["default"] = default
    return schema


def _default(field_type: FieldType, schema: Schema) -> object | None:
    """The default that the API server fills in; None where an absent field says the same."""
    field = _field(field_type)
    if field.is_required():
        return None
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, SpecModel):
        has_defaults = any("default" in inner for inner in schema["properties"].values())
        return {} if has_defaults else None
    if default is None or default in ({}, ()):
        return None
    return list(default) if isinstance(default, tuple) else default


def value_schema(field_type: FieldType, *, with_defaults: bool = False) -> Schema:
    """The schema of a type that is no model; of an item too."""
    if field_type.model is not None:
        return object_schema(field_type.model, with_defaults=with_defaults)
    either = _mark(field_type, IntOrString)
    if either is not None:
        return {
            "x-kubernetes-int-or-string": True,
            "minimum": either.minimum,
            "maximum": either.maximum,
            "maxLength": either.characters,
            "pattern": either.pattern,
        }
    origin = get_origin(field_type.base)
    if origin is tuple:
        schema = _list_schema(field_type)
    elif origin is dict:
        schema = _map_schema(field_type)
    else:
        schema = _scalar_schema(field_type)
    if marks := [item for item in field_type.constraints if isinstance(item, Cel)]:
        of_type = describe_type(field_type).removesuffix("; or null")
        schema.setdefault("x-kubernetes-validations", []).extend(
            {"rule": mark.rule, "message": f"expected {mark.expected or of_type}"} for mark in marks
        )
    return schema


def _list_schema(field_type: FieldType) -> Schema:
    """Without defaults of items: GitOps tools compare lists whole: one that is filled in would be drift."""
    item_type = child_type(field_type, 0)
    if item_type is None:
        raise TypeError(f"{field_type.base} has no type of its items")
    schema: Schema = {
        "type": "array",
        **_sizes(field_type, "minItems", "maxItems"),
        "items": value_schema(item_type, with_defaults=False),
    }
    list_map = _mark(field_type, ListMap)
    if list_map is None:
        return schema | {"x-kubernetes-list-type": "atomic"}
    return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [list_map.key]}


def _map_schema(field_type: FieldType) -> Schema:
    keys, values = key_type(field_type), child_type(field_type, "")
    if keys is None or values is None:
        raise TypeError(f"{field_type.base} has no types of its keys and values")
    schema: Schema = {"type": "object", **_sizes(field_type, "minProperties", "maxProperties")}
    if values.base is JsonValue:
        return schema | {"x-kubernetes-preserve-unknown-fields": True}
    schema["additionalProperties"] = value_schema(values, with_defaults=False)
    of_key = _scalar_schema(keys)
    size, matches = f"size(key) <= {of_key['maxLength']}", f"key.matches({_cel_text(of_key['pattern'])})"
    message = f"expected as each name {describe_type(keys)}"
    schema["x-kubernetes-validations"] = [{"rule": f"self.all(key, {size} && {matches})", "message": message}]
    return schema


def _cel_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _scalar_schema(field_type: FieldType) -> Schema:
    base = field_type.base
    if get_origin(base) is Literal:
        return {"type": "string", "enum": list(get_args(base))}
    if base is str:
        schema: Schema = {"type": "string", **_sizes(field_type, "minLength", "maxLength")}
        return schema | _pattern(field_type)
    if base is datetime:
        return {"type": "string", "format": "date-time", "maxLength": 64}
    if base is bool:
        return {"type": "boolean"}
    if base is int:
        return {"type": "integer", "format": "int64", **_bounds(field_type)}
    if base is float:
        return {"type": "number", **_bounds(field_type)}
    raise TypeError(f"{base} has no schema")


def _pattern(field_type: FieldType) -> Schema:
    for item in field_type.constraints:
        # pydantic keeps the pattern of a Field in metadata of a class that it does not publish.
        pattern = item.pattern if isinstance(item, SchemaPattern) else getattr(item, "pattern", None)
        if pattern is not None:
            return {"pattern": pattern}
    return {}


def _sizes(field_type: FieldType, least_name: str, most_name: str) -> Schema:
    sizes: Schema = {}
    for item in field_type.constraints:
        if isinstance(item, annotated_types.MinLen):
            sizes[least_name] = item.min_length
        elif isinstance(item, annotated_types.MaxLen):
            sizes[most_name] = item.max_length
    if most_name not in sizes:
        raise TypeError(f"{field_type.base} without a largest size: CEL can't tell what a rule over it costs")
    return sizes


def _bounds(field_type: FieldType) -> Schema:
    bounds: Schema = {}
    for item in field_type.constraints:
        if isinstance(item, annotated_types.Ge):
            bounds["minimum"] = item.ge
        elif isinstance(item, annotated_types.Gt):
            bounds |= {"minimum": item.gt, "exclusiveMinimum": True}
        elif isinstance(item, annotated_types.Le):
            bounds["maximum"] = item.le
    if not {"minimum", "maximum"} <= bounds.keys():
        raise TypeError(f"{field_type.base} without bounds")
    if max(abs(bounds["minimum"]), abs(bounds["maximum"])) >= _INEXACT:
        raise TypeError(f"bounds {bounds}: the API server compares numbers as floating point")
    if bounds["minimum"] % 1:
        # The API server cuts a bound to a whole number before it compares it with one: 0 would pass 0.01.
        rule = {"rule": f"self >= {bounds['minimum']}", "message": f"expected {describe_type(field_type)}"}
        bounds["x-kubernetes-validations"] = [rule]
    return bounds


def _mark(field_type: FieldType, mark: type[Mark]) -> Mark | None:
    return next((item for item in field_type.constraints if isinstance(item, mark)), None)
