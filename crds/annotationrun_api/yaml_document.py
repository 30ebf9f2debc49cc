"""YAML text as values that know their line.

The scalars are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema): only
``true`` and ``false`` are booleans, ``12:30`` is a text. What kubectl reads otherwise, such as ``no``, is a
problem (see `annotationrun_api.yaml_dialects`). Infinity and NaN stay text: no setting takes them. Sizes are
bounded before they cost anything.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import yaml

from annotationrun_api.errors import ManifestError, ManifestProblem
from annotationrun_api.yaml_dialects import kubectl_reads

MAX_BYTES = 1 << 20  # what a Kubernetes API server takes at most is of this order
MAX_VALUES = 10_000  # counted with aliases written out, so that a few lines can't become gigabytes
MAX_DEPTH = 32  # the manifest itself needs 8

Scalar = str | int | float | bool | None

_CORE_SCHEMA = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"(?:[-+]?[0-9]{1,20}|0o[0-7]{1,24}|0x[0-9a-fA-F]{1,16})$"), list("-+0123456789")),
    (
        "float",
        re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,4})?$"),
        list("-+.0123456789"),
    ),
)


_SCALARS: dict[str, Callable[[str], Scalar]] = {
    "tag:yaml.org,2002:null": lambda text: None,
    "tag:yaml.org,2002:bool": lambda text: text.lower() == "true",
    "tag:yaml.org,2002:int": lambda text: int(text, 0) if text[:2] in {"0o", "0x"} else int(text),
    "tag:yaml.org,2002:float": float,
    "tag:yaml.org,2002:str": str,
}


# Control characters, and halves of surrogate pairs, which no UTF-8 file can hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Position(NamedTuple):
    """A place in the text: line and column from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a mapping and where its key stands."""

    key_position: Position
    node: "Node"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it starts."""

    position: Position
    value: "Scalar | tuple[Node, ...] | dict[str, Entry]"

    def plain(self) -> object:
        """The value without positions: scalars, lists and dicts."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, dict):
            return {key: entry.node.plain() for key, entry in self.value.items()}
        return self.value


class _Loader(yaml.SafeLoader):
    """Composes nodes, resolved by the core schema, to a bounded depth and number."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._count = 0

    def next_mark(self) -> yaml.Mark:
        """Where the next event starts."""
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return mark

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        self._count += 1
        if self._depth > MAX_DEPTH or self._count > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=_TOO_BIG, problem_mark=self.next_mark())
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_TOO_BIG = f"more than {MAX_VALUES} values, or nested deeper than {MAX_DEPTH}"
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


def read_yaml(text: str, name: str) -> tuple[Node, tuple[ManifestProblem, ...]]:
    """Read the one document of a text; `name` is for the error.

    Returns the value and the problems that leave it readable: duplicate keys (the first one stays), keys that
    are no text, tags, control characters, scalars that kubectl reads otherwise.

    Raises:
        ManifestError: not YAML, empty, several documents, too big or too deep.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ManifestError(
            name, [_whole_file(f"more than {MAX_BYTES} bytes", "a manifest of a few kilobytes", "shorten it")]
        )
    converter = _Converter()
    try:
        loader = _Loader(text)
        root = loader.get_node() if loader.check_node() else None
        if loader.check_node():
            position = _position(loader.next_mark())
            several = ("a second document", "one document", "put each manifest into a file of its own")
            raise ManifestError(name, [ManifestProblem(*position, "", *several)])
        if root is None or (isinstance(root, yaml.ScalarNode) and root.value == "" and not root.style):
            raise ManifestError(
                name, [_whole_file("nothing", "a manifest", "write apiVersion, kind, metadata, spec")]
            )
        node = converter.convert(root)
    except yaml.YAMLError as error:
        raise ManifestError(name, [_syntax_problem(error, text)]) from error
    return node, tuple(converter.problems)


def _whole_file(got: str, expected: str, next_step: str) -> ManifestProblem:
    return ManifestProblem(1, 1, "", got, expected, next_step)


def _position(mark: yaml.Mark | None) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _syntax_problem(error: yaml.YAMLError, text: str) -> ManifestProblem:
    if isinstance(error, yaml.MarkedYAMLError):
        position = _position(error.problem_mark or error.context_mark)
        said = ", ".join(part for part in (error.context, error.problem) if part)
    elif isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        position = Position(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        said = f"the character U+{ord(text[error.position]):04X}"
    else:
        position, said = Position(1, 1), "text that is not YAML"
    if said == _TOO_BIG:
        return ManifestProblem(
            *position, "", said, "a manifest of a few hundred values", "shorten it, or remove aliases"
        )
    return ManifestProblem(
        *position,
        "",
        said,
        "YAML",
        "look at indentation (spaces, no tabs), quotes and brackets in and above this line",
    )


class _Converter:
    """Turns composed nodes into ours, written out where they are aliases, and collects problems."""

    def __init__(self) -> None:
        self.problems: list[ManifestProblem] = []
        self._count = 0

    def convert(self, node: yaml.Node, path: str = "", depth: int = 0) -> Node:
        self._count += 1
        position = _position(node.start_mark)
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_TOO_BIG, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return Node(position, dict(self._entries(node, path, depth)))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            items = (
                self.convert(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)
            )
            return Node(position, tuple(items))
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return Node(position, self._scalar(node, position, path))
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        self._note(position, path, f"the tag {tag!r}", "a plain value", "remove the tag")
        return Node(position, None)

    def _scalar(self, node: yaml.ScalarNode, position: Position, path: str) -> Scalar:
        self._note_dialect(node, position, path)
        try:
            value = _SCALARS[node.tag](node.value)
        except ValueError:  # an explicit tag over a text that is none: !!int abc
            self._note(
                position, path, f"{node.value!r} tagged as a number", "a plain value", "remove the tag"
            )
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return str(node.value)
        if isinstance(value, str) and not _is_clean(value):
            got = f"the text {value[:80]!r}"
            self._note(position, path, got, "printable text", "remove the control characters")
            return ""
        return value

    def _entries(self, node: yaml.MappingNode, path: str, depth: int) -> Iterator[tuple[str, Entry]]:
        first: dict[str, Position] = {}
        for key_node, value_node in node.value:
            position = _position(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                got = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self._note(position, path, f"the key {got}", "a text as key", "put the key in quotes")
                continue
            key = key_node.value
            key_path = join_path(path, key)
            value = self.convert(value_node, key_path, depth + 1)
            if key in first:
                earlier = f"the key {key!r} again (line {first[key].line} has it)"
                self._note(position, key_path, earlier, "each key once", "remove one of them")
                continue
            first[key] = position
            self._note_dialect(key_node, position, key_path)
            if not _is_clean(key):
                self._note(
                    position, path, f"the key {key!r}", "printable text", "remove the control characters"
                )
            yield key, Entry(position, value)

    def _note_dialect(self, node: yaml.ScalarNode, position: Position, path: str) -> None:
        if node.style is None and (read := kubectl_reads(node.value)) is not None:
            got = f"{node.value!r} without quotes, which kubectl reads as {read}"
            next_step = "put it in quotes if it is a text, else write true, false or a decimal number"
            self._note(position, path, got, "what means the same to every reader of YAML", next_step)

    def _note(self, position: Position, path: str, got: str, expected: str, next_step: str) -> None:
        self.problems.append(ManifestProblem(*position, path, got, expected, next_step))


def join_path(path: str, key: str) -> str:
    """The path of a key: ``spec.model``, but ``metadata.labels['a.b']``."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", key):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


def _is_clean(text: str) -> bool:
    return _UNPRINTABLE.search(text) is None
