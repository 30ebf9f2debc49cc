"""Read a manifest: YAML text to `AnnotationRun`, or one error that lists everything that is wrong in it.

The models check values. What they can't do, to report everything at once with lines and suggestions, is done
here: unknown fields and broken rules are found on the raw values, and a mistyped name that is near a field's
is taken as that field while the rest is checked.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from annotationrun_api.errors import ManifestError, ManifestProblem
from annotationrun_api.manifest_words import RENAMED, Loc, describe_value, format_path, nearest, next_step_for
from annotationrun_api.spec import KIND, AnnotationRun, Metadata
from annotationrun_api.spec_fields import (
    FieldType,
    child_type,
    describe_type,
    field_types,
    key_type,
    type_at,
    walk_fields,
)
from annotationrun_api.spec_types import BROKEN_RULE, SpecModel, yaml_name
from annotationrun_api.yaml_document import MAX_BYTES, Entry, Node, Position, read_yaml


def load_manifest(path: Path) -> AnnotationRun:
    """Read the manifest in a file.

    Raises:
        ManifestError: the file can't be read, is no YAML, or has wrong settings; it lists all of them.
    """
    name = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return parse_manifest(content.decode("utf-8-sig"), name)
    except OSError as error:
        said = error.strerror or type(error).__name__
        problem = ManifestProblem(0, 0, "", said, "a readable file", "check the path and its permissions")
        raise ManifestError(name, [problem]) from error
    except UnicodeDecodeError as error:
        before = content[: error.start]
        position = (before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        got = f"the byte 0x{content[error.start]:02X}, which is not UTF-8"
        problem = ManifestProblem(*position, "", got, "UTF-8 text", "save the file as UTF-8")
        raise ManifestError(name, [problem]) from error


def parse_manifest(text: str, name: str) -> AnnotationRun:
    """Read the manifest in a text; `name` stands for the file in errors.

    Raises:
        ManifestError: no YAML, or settings that are wrong; it lists all of them, in the order of the text.
    """
    root, unreadable = read_yaml(text, name)
    run, problems = _check(root)
    # What is wrong with a value that could not be read for what it is would say the same thing twice.
    seen = {(problem.line, problem.column) for problem in unreadable}
    about_values = {problem for problem in problems if (problem.line, problem.column) not in seen}
    problems = sorted(
        {*unreadable, *about_values}, key=lambda problem: (problem.line, problem.column, problem.path)
    )
    if problems or run is None:
        raise ManifestError(name, problems)
    return run


def parse_object(value: Mapping[str, object], name: str) -> AnnotationRun:
    """Read a run as an API server gives it; fields of it that no manifest has are passed over.

    The API server has checked it by the CRD's schema, maybe by that of another version; this checks the rest.

    Raises:
        ManifestError: settings that are wrong; it lists all of them, without lines.
    """
    manifest = {key: value[key] for key in ("apiVersion", "kind", "spec") if key in value}
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping):
        named = {yaml_name(field) for field in Metadata.model_fields}
        manifest["metadata"] = {key: inner for key, inner in metadata.items() if key in named}
    run, problems = _check(_without_position(manifest))
    if problems or run is None:
        raise ManifestError(name, problems)
    return run


def _without_position(value: object) -> Node:
    nowhere = Position(0, 0)
    if isinstance(value, Mapping):
        entries = {str(key): Entry(nowhere, _without_position(inner)) for key, inner in value.items()}
        return Node(nowhere, entries)
    if isinstance(value, list | tuple):
        return Node(nowhere, tuple(_without_position(item) for item in value))
    if value is None or isinstance(value, bool | int | float | str):
        return Node(nowhere, value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _check(root: Node) -> tuple[AnnotationRun | None, list[ManifestProblem]]:
    if not isinstance(root.value, dict):
        got = describe_value(root.plain(), ())
        expected = "a mapping of apiVersion, kind, metadata, spec"
        return None, [ManifestProblem(*root.position, "", got, expected, "write these four fields")]
    kind = root.value.get("kind")
    if kind and isinstance(kind.node.value, str) and nearest(kind.node.value, [KIND]) is None:
        # Some other manifest: what else is in it says nothing about ours.
        other = ManifestProblem(
            *kind.node.position, "kind", repr(kind.node.value[:80]), KIND, "give another file"
        )
        return None, [other]
    problems: list[ManifestProblem] = []
    corrected = _correct(root, AnnotationRun, (), problems)
    try:
        return AnnotationRun.model_validate_json(json.dumps(corrected.plain())), problems
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems.extend(_value_problem(detail, corrected) for detail in details if detail["type"] != BROKEN_RULE)
    return None, problems


def _correct(node: Node, model: type[SpecModel], loc: Loc, problems: list[ManifestProblem]) -> Node:
    """Note unknown fields and broken rules; the mapping returned has the nearest known fields instead."""
    if not isinstance(node.value, dict):
        return node
    types = field_types(model)
    entries: dict[str, Entry] = {}
    for name, entry in node.value.items():
        known = name
        if name not in types:
            near = RENAMED[name] if RENAMED.get(name) in types else nearest(name, types)
            problems.append(_unknown_field((*loc, name), entry, near, model))
            if near is None or near in node.value or near in entries:
                continue
            known = near
        entries[known] = Entry(
            entry.key_position, _descend(entry.node, types[known], (*loc, known), problems)
        )
    corrected = Node(node.position, entries)
    problems.extend(_broken_rules(corrected, model, loc))
    return corrected


def _descend(node: Node, field_type: FieldType, loc: Loc, problems: list[ManifestProblem]) -> Node:
    if field_type.model is not None:
        return _correct(node, field_type.model, loc, problems)
    if isinstance(node.value, tuple) and (item_type := child_type(field_type, 0)):
        items = (_descend(item, item_type, (*loc, index), problems) for index, item in enumerate(node.value))
        return Node(node.position, tuple(items))
    return node


def _unknown_field(loc: Loc, entry: Entry, near: str | None, model: type[SpecModel]) -> ManifestProblem:
    parent = format_path(loc[:-1]) or "the manifest"
    expected = f"a field of {parent}" + ("" if near else f": {', '.join(field_types(model))}")
    if near and near == RENAMED.get(str(loc[-1])):
        next_step = f"it is called {near!r} now"
    elif near:
        next_step = f"did you mean {near!r}?"
    elif elsewhere := _fields_named(str(loc[-1])):
        next_step = f"move it to {' or '.join(elsewhere)}, or remove it"
    elif loc[-1] == "<<":
        next_step = "write the fields out: YAML's merge key is not part of YAML 1.2"
    else:
        next_step = "remove it"
    return ManifestProblem(*entry.key_position, format_path(loc), "an unknown field", expected, next_step)


def _fields_named(name: str) -> list[str]:
    paths = [path.removeprefix(".") for path, _ in walk_fields(AnnotationRun, "")]
    return [path for path in paths if path.rsplit(".", 1)[-1] == name][:3]


def _broken_rules(node: Node, model: type[SpecModel], loc: Loc) -> Iterator[ManifestProblem]:
    given = node.plain()
    if not model.rules or not isinstance(given, dict) or not isinstance(node.value, dict):
        return
    values: Mapping[str, object] = _defaults(model) | given
    for rule in model.rules:
        if (got := rule.check(values)) is not None:
            entry = node.value.get(rule.field)
            position = entry.key_position if entry else node.position
            path = format_path((*loc, rule.field) if entry else loc)
            yield ManifestProblem(*position, path, got, rule.expected, rule.next_step)


def _defaults(model: type[SpecModel]) -> dict[str, object]:
    return {
        yaml_name(name): None
        if field.is_required()
        else field.get_default(call_default_factory=True, validated_data={})
        for name, field in model.model_fields.items()
    }


def _value_problem(detail: ErrorDetails, root: Node) -> ManifestProblem:
    loc = detail["loc"]
    if detail["type"] == "missing":
        parent = format_path(loc[:-1]) or "the manifest"
        position = _find(root, loc[:-1])[0]
        field_type = type_at(AnnotationRun, loc)
        expected = describe_type(field_type) if field_type else "a value"
        return ManifestProblem(
            *position, format_path(loc), "nothing, it is required", expected, f"add {loc[-1]!r} to {parent}"
        )
    is_key = loc[-1] == "[key]"
    place = loc[:-1] if is_key else loc
    key_position, value_position = _find(root, place)
    found = type_at(AnnotationRun, place[:-1] if is_key else place)
    field_type = key_type(found) if found and is_key else found
    said = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else None
    got = describe_value(detail["input"], place)
    return ManifestProblem(
        *(key_position if is_key else value_position),
        format_path(place),
        f"the name {got}" if is_key else got,
        said or (describe_type(field_type) if field_type else "another value"),
        next_step_for(detail["input"], field_type) if field_type else "correct it",
    )


def _find(root: Node, loc: Loc) -> tuple[Position, Position]:
    """Positions of the key and of the value at a path; of the last one on the way that there is."""
    key_position, node = root.position, root
    for part in loc:
        if isinstance(node.value, dict) and isinstance(part, str) and part in node.value:
            key_position, node = node.value[part].key_position, node.value[part].node
        elif isinstance(node.value, tuple) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            key_position = node.position
    return key_position, node.position
