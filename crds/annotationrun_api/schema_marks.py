"""Marks on types that only the generated CRD schema reads.

Bounds and patterns of a field go into the schema by themselves. These say the rest: what Python code checks
needs its equal in a pattern or in CEL (https://kubernetes.io/docs/reference/using-api/cel/).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchemaPattern:
    """The pattern of a text, in RE2's syntax, where a Python check says more about what is wrong."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Cel:
    """A CEL rule over the value as ``self``.

    One that Python does not check holds on a cluster alone; the command line takes such a manifest.
    """

    rule: str
    expected: str = ""
    """What the message says is expected; empty: the type's `Expect`."""


@dataclass(frozen=True, slots=True)
class IntOrString:
    """The value is a whole number of these bounds or a text (``x-kubernetes-int-or-string``)."""

    minimum: int
    maximum: int
    pattern: str
    """Of the text."""
    characters: int
    """The most that the text has."""


@dataclass(frozen=True, slots=True)
class ListMap:
    """The list holds one item for each value of this field of its items (``x-kubernetes-list-type: map``)."""

    key: str
