"""The reference of the resource, made from the models: ``python -m annotationrun_api.reference`` prints it.

``crds/README.md`` is this text; a test holds the two together.
"""

import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types
import yaml
from pydantic import JsonValue
from pydantic.fields import FieldInfo

from annotationrun_api.crd_schema import crd
from annotationrun_api.edits import EditClass, paths_of
from annotationrun_api.labels import API_VERSION, COPIED_PREFIXES, REQUESTED_AT_ANNOTATION
from annotationrun_api.markdown_table import code, table
from annotationrun_api.reasons import Reason
from annotationrun_api.spec import KIND, Metadata, RunSpec
from annotationrun_api.spec_effects import paths_with
from annotationrun_api.spec_fields import FieldType, child_type, describe_type, field_types, key_type
from annotationrun_api.spec_types import EffectOnly, SpecModel
from annotationrun_api.status import RunStatus
from annotationrun_api.structural_schema import Schema

NOT_YET: Final[tuple[str, ...]] = ()
"""Fields of which this version carries out the default only; a test compares them with the worker's list."""

_SAMPLES = Path(__file__).parents[1] / "samples"
_HEADER = f"""\
<!-- Generated from the models in annotationrun_api by `make crds`; edit those. -->
# {KIND}, the reference

`apiVersion: {API_VERSION}`, `kind: {KIND}`, short name `arun`, namespaced. The CustomResourceDefinition is
[annotationruns.yaml](annotationruns.yaml); `kubectl explain annotationrun.spec` tells the same as this page.
What the conditions of a run mean, and what to do about each reason, is in the
[runbook](../operator/RUNBOOK.md).

A field that is left out has its default, which the API server fills in (but in items of lists); `null` means
the same. An unknown field is refused. **Not yet** marks what this version does not carry out: another value
than the default ends the run with the reason `ConfigurationRefused`.
"""
_METADATA_NOTES = f"""
The annotation `{REQUESTED_AT_ANNOTATION}` of a run opens a new attempt with each new value, as
`spec.retryToken` does, without an edit of the spec. Labels of a run that begin with `{COPIED_PREFIXES[0]}`
are given to its Jobs.
"""
_CLUSTER_RULES = """
On a cluster the operator asks for more than the schema (reasons `InvalidSpec`, `VolumeNotFound`,
`VolumeAccessMode`, `NotAllowed`): a `path` of source or output needs its `volume`; `spec.staging` needs
`volume` or `uri`; the installation has to allow the image, the service account, the classes and the
annotations that are chosen; each claim has to exist; with `spec.workers.parallelism` over 1 each claim has to
be ReadWriteMany (or ReadOnlyMany). With `mode: External` the claim of `spec.model.serving.cache` is not
mounted, and need not exist.
"""
_EFFECT_NOTES = f"""
A setting that differs from its default and has no effect in a run is reported: on one machine as a warning of
`annotationrun plan` and `run`, on a cluster as an Event with the reason `{Reason.SETTINGS_WITHOUT_EFFECT}`.
"""
_EDIT_NOTES = f"""
A new value of the annotation `{REQUESTED_AT_ANNOTATION}` is of the last class too. A run that has failed is
tried again after any edit but of `spec.suspend` and `spec.ttlSecondsAfterFinished`.
"""


def reference() -> str:
    """The whole page."""
    parts = [
        _HEADER,
        f"## Samples\n\n{table(('manifest', 'what it shows'), _samples())}",
        f"## metadata\n\n{table(_FIELD_HEADER, [_name_row()])}{_METADATA_NOTES}",
        *_spec_sections(),
        "## Rules over several fields\n\n"
        "The API server checks these (CEL, over the value as `self`); `annotationrun` on one machine checks"
        f" the same.\n\n{table(('at', 'refused with', 'rule'), _rules())}"
        f"{_CLUSTER_RULES}",
        "## Settings that have an effect in some runs only\n\n"
        f"{table(('field', 'has an effect only'), _effects())}"
        f"{_EFFECT_NOTES}",
        f"## What an edit asks for\n\n{table(('edit of', 'what follows'), _edits())}{_EDIT_NOTES}",
        f"## status\n\nWritten by the operator alone.\n\n{_status_table()}",
        f"## Columns of kubectl get\n\n{table(('column', 'from', 'meaning', 'shown'), columns())}",
    ]
    return "\n".join(parts)


def walk_all_fields(model: type[SpecModel], prefix: str) -> Iterator[tuple[str, FieldType]]:
    """Every field, those of mappings in lists too, by path such as ``spec.workers.pod.tolerations[].key``."""
    for name, field_type in field_types(model).items():
        path = f"{prefix}.{name}"
        yield path, field_type
        item = child_type(field_type, 0) if get_origin(field_type.base) is tuple else None
        if field_type.model is not None:
            yield from walk_all_fields(field_type.model, path)
        elif item is not None and item.model is not None:
            yield from walk_all_fields(item.model, f"{path}[]")


def columns() -> list[tuple[str, str, str, str]]:
    """The printer columns: name, path, meaning, when they are shown."""
    version = crd()["spec"]["versions"][0]
    return [
        (
            column["name"],
            code(column["jsonPath"]),
            column["description"],
            "with `-o wide`" if column.get("priority") else "always",
        )
        for column in version["additionalPrinterColumns"]
    ]


def _samples() -> Iterator[tuple[str, str]]:
    for path in sorted(_SAMPLES.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        shown = re.split(r"(?<=\.) ", comment)[0]
        manifest = yaml.safe_load(text)
        if missing := [code(field) for field in NOT_YET if _has(manifest, field)]:
            shown = f"{shown} **Not yet**: {', '.join(missing)}."
        yield f"[{path.name}](samples/{path.name})", shown


def _has(manifest: object, path: str) -> bool:
    value: Any = manifest
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def _spec_sections() -> Iterator[str]:
    """The fields of ``spec`` itself, then a section for each mapping in it."""
    types = field_types(RunSpec)
    own = [_row(f"spec.{name}", field_type) for name, field_type in types.items()]
    yield f"## spec\n\n{table(_FIELD_HEADER, own)}"
    for name, field_type in types.items():
        if field_type.model is not None:
            yield f"### spec.{name}\n\n{_fields_table(field_type.model, f'spec.{name}')}"


_FIELD_HEADER = ("field", "type", "default", "meaning")


def _fields_table(model: type[SpecModel], prefix: str) -> str:
    return table(_FIELD_HEADER, (_row(*row) for row in walk_all_fields(model, prefix)))


def _name_row() -> tuple[str, str, str, str]:
    return _row("metadata.name", field_types(Metadata)["name"])


def _status_table() -> str:
    """Without a column of defaults: nobody fills them in, they say what an absent field means."""
    rows = (
        (code(path), in_words(field_type), _description(path, field_type.field))
        for path, field_type in walk_all_fields(RunStatus, "status")
    )
    return table(("field", "type", "meaning"), rows)


def _row(path: str, field_type: FieldType) -> tuple[str, str, str, str]:
    field, meaning = field_type.field, _description(path, field_type.field)
    if field is None or field.is_required():
        return code(path), in_words(field_type), "required", meaning.removesuffix(" Required.")
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = _default_of_mapping(meaning) if isinstance(default, SpecModel) else _as_yaml(default)
    meaning = f" {meaning}".replace(f" Default {shown}.", "", 1).strip()
    return code(path), in_words(field_type), code(shown), meaning + _not_yet(path)


def _description(path: str, field: FieldInfo | None) -> str:
    """The description without the name that it begins with."""
    if field is None or not field.description:
        raise TypeError(f"{path} is no field with a description")
    return field.description.partition(": ")[2]


def _not_yet(path: str) -> str:
    return " **Not yet.**" if path in NOT_YET else ""


def _default_of_mapping(meaning: str) -> str:
    found = re.search(r"Default (\{.*?\})[.:]", meaning)
    return found[1] if found else "{}"


def _as_yaml(value: object) -> str:
    if value == "":
        return '""'
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def in_words(field_type: FieldType) -> str:
    """The type with its bounds, for a person who reads a table."""
    base, origin = field_type.base, get_origin(field_type.base)
    most = next((item.max_length for item in field_type.constraints if isinstance(item, _MAX)), None)
    if field_type.model is not None:
        return "a mapping"
    if base is JsonValue:
        return "any JSON value"
    if base is datetime:
        return "a time such as 2026-01-31T12:00:00Z"
    if origin is Literal:
        return f"one of {', '.join(map(code, get_args(base)))}"
    said = describe_type(field_type).removesuffix("; or null").removesuffix(_UNBOUNDED)
    if origin is dict:
        keys, values = key_type(field_type), child_type(field_type, "")
        return f"a mapping of up to {most}; each name: {_in_words(keys)}; each value: {_in_words(values)}"
    if origin is tuple and not said.endswith("each once"):
        return f"a list of up to {most}, each {_in_words(child_type(field_type, 0))}"
    is_told = most is None or str(most) in said or origin is tuple
    return said if is_told else f"{said}, up to {most} characters"


_MAX = annotated_types.MaxLen
_UNBOUNDED = f" up to {(1 << 53) - 1}"
"""The most that JSON keeps exactly says nothing to a person."""


def _in_words(field_type: FieldType | None) -> str:
    if field_type is None:
        raise TypeError("an item without a type")
    return in_words(field_type)


def _rules() -> list[tuple[str, str, str]]:
    root = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return list(_rules_of(root["properties"]["spec"], "spec"))


def _rules_of(schema: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield code(f"{path}{rule.get('fieldPath', '')}"), rule["message"], code(rule["rule"])
    for name, inner in schema.get("properties", {}).items():
        yield from _rules_of(inner, f"{path}.{name}")
    if "items" in schema:
        yield from _rules_of(schema["items"], f"{path}[]")


def _effects() -> Iterator[tuple[str, str]]:
    for mark in EffectOnly:
        yield ", ".join(map(code, paths_with(mark))), mark.value


def _edits() -> Iterator[tuple[str, str]]:
    for kind in EditClass:
        paths = ", ".join(map(code, paths_of(kind)))
        yield f"everything else, including {paths}" if kind is EditClass.PLAN else paths, kind.value


if __name__ == "__main__":
    sys.stdout.write(reference())
