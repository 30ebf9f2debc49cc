"""What all models of the manifest share: the strict base, rules over several fields, bounded texts.

A field's constraints (bounds, pattern) are for the machine and for the generated schema; `Expect` beside them
is what a person reads when the value is refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from annotationrun_api.schema_marks import Cel, IntOrString

BROKEN_RULE = "broken_rule"
"""Type of the pydantic error that a broken `Rule` raises."""

_IRREGULAR_NAMES = {"repo_id": "repoID"}


@cache
def yaml_name(attribute: str) -> str:
    """The name in YAML of an attribute: ``frames_per_second`` is ``framesPerSecond``."""
    return _IRREGULAR_NAMES.get(attribute) or to_camel(attribute)


@dataclass(frozen=True, slots=True)
class Expect:
    """Marks a type with the words for what it accepts."""

    text: str


class EffectOnly(Enum):
    """Marks a field that has an effect in some runs only; the value says in which, behind ``only``.

    A mark on a mapping is for all fields in it. `spec_effects` tells which settings of a run have none.
    """

    CLUSTER = "on a cluster"
    SIDECAR = "with spec.model.serving.mode Sidecar, on a cluster"
    HUB_SOURCE = "with spec.source.repoID"
    HUB_OUTPUT = "with spec.output.repoID"
    HUB = "with spec.source.repoID or spec.output.repoID"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule over several fields of one mapping.

    `check` takes values by YAML name, defaults filled in. They may be raw and of any type, so that a rule can
    be reported beside a wrong type. It returns what was got when the rule is broken, else None.
    """

    field: str
    """YAML name of the field that an error points at; the mapping itself where it is not written."""
    check: Callable[[Mapping[str, object]], str | None]
    expected: str
    next_step: str
    cel: str
    """The same rule in CEL, over the mapping as ``self``.

    A null is absent there and defaults are filled in, but not in a mapping that is itself a default.
    """


def exactly_one(first: str, second: str) -> Rule:
    """The rule that one of two fields is set, and not both."""

    def check(values: Mapping[str, object]) -> str | None:
        given = sum(values[name] is not None for name in (first, second))
        return {0: f"neither {first} nor {second}", 2: f"both {first} and {second}"}.get(given)

    return Rule(
        second,
        check,
        f"exactly one of {first}, {second}",
        f"set {first} or {second}, not both",
        f"has(self.{first}) != has(self.{second})",
    )


def at_most_one(first: str, second: str) -> Rule:
    """The rule that two fields are not both set."""

    def check(values: Mapping[str, object]) -> str | None:
        both = values[first] is not None and values[second] is not None
        return f"both {first} and {second}" if both else None

    return Rule(
        second,
        check,
        f"at most one of {first}, {second}",
        f"remove {first} or {second}",
        f"!(has(self.{first}) && has(self.{second}))",
    )


def only_with(field: str, other: str, *, is_flag: bool = False) -> Rule:
    """The rule that a field other than null, or a flag that is true, needs another field that is set."""

    def check(values: Mapping[str, object]) -> str | None:
        given = values[field] is not None and values[field] is not False
        return f"{field} without {other}" if given and values[other] is None else None

    given = f"has(self.{field}) && self.{field}" if is_flag else f"has(self.{field})"
    return Rule(
        field,
        check,
        f"{field} only together with {other}",
        f"set {other}, or remove {field}",
        f"!({given}) || has(self.{other})",
    )


class SpecModel(BaseModel):
    """A mapping of the manifest: frozen, strict, unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=yaml_name,
        validate_by_alias=True,
        validate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    def by_yaml_name(self) -> dict[str, object]:
        """The values of the fields by YAML name, not copied."""
        return {yaml_name(name): getattr(self, name) for name in type(self).model_fields}

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        values = self.by_yaml_name()
        for rule in type(self).rules:
            if (got := rule.check(values)) is not None:
                raise PydanticCustomError(
                    BROKEN_RULE, "got {got}, expected {expected}", {"got": got, "expected": rule.expected}
                )
        return self


_PORT = (
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # up to 65535
)
_ENDPOINT = rf"^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:{_PORT})?(/[^\s?#]*)?$"


def _has_backstep(path: str) -> bool:
    return ".." in path.split("/")


def inside_volume(field: str) -> Rule:
    """The rule that the path in a volume does not lead out of it; from its root a leading '/' counts too."""

    def check(values: Mapping[str, object]) -> str | None:
        path = values[field]
        leads_out = values["volume"] is not None and isinstance(path, str) and _has_backstep(path)
        return f"{path!r} with volume" if leads_out else None

    return Rule(
        field,
        check,
        f"{field} inside volume: without '..'",
        f"write {field} as it is from the volume's root, or from subPath",
        f"!has(self.volume) || !has(self.{field}) || !('/' + self.{field} + '/').contains('/../')",
    )


def _check_sub_path(path: str) -> str:
    if path.startswith("/") or _has_backstep(path):
        raise ValueError("a path inside the volume: relative, without '..'")
    return path


_LARGEST_INTEGER = (1 << 53) - 1  # the API server compares numbers as floating point


def _integer_as_text(value: object) -> object:
    # Kubernetes takes `cpu: 4` as well as `cpu: "4"`; a bool is an int to Python, not to us.
    return str(value) if type(value) is int and 0 <= value <= _LARGEST_INTEGER else value


Name = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    Expect("a DNS-1123 label: up to 63 lower-case letters, digits and '-', a letter or digit at both ends"),
]
ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"),
    Expect("the name of a Kubernetes object: up to 253 lower-case letters, digits, '-' and '.'"),
]
RepoId = Annotated[
    str,
    Field(max_length=192, pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,95}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}$"),
    Expect("a repository on the Hub such as lerobot/so101_pick"),
]
Revision = Annotated[
    str,
    Field(max_length=255, pattern=r"^[^\s~^:?*\[\\-][^\s~^:?*\[\\]*$"),
    Expect("a branch, a tag or a commit"),
]
FolderPath = Annotated[str, Field(min_length=1, max_length=4096), Expect("the path of a folder")]
SubPath = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    AfterValidator(_check_sub_path),
    Cel("!self.startsWith('/') && !('/' + self + '/').contains('/../')"),
    Expect("a path inside the volume: relative, without '..'"),
]
Endpoint = Annotated[
    str,
    Field(max_length=2048, pattern=_ENDPOINT),
    Expect("a base URL such as http://localhost:8000/v1: http or https, no user, password or query"),
]
StoreUri = Annotated[
    str,
    Field(
        max_length=2048,
        pattern=r"^(file:///\S.*|(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#@]*)?)$",
    ),
    Expect("file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"),
]
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
Quantity = Annotated[
    str,
    BeforeValidator(_integer_as_text),
    Field(max_length=32, pattern=_QUANTITY),
    IntOrString(minimum=0, maximum=_LARGEST_INTEGER, pattern=_QUANTITY, characters=32),
    Expect("a Kubernetes quantity such as 16Gi, 500m or 4"),
]
ResourceName = Annotated[
    str,
    Field(max_length=317, pattern=r"^([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9][-A-Za-z0-9_.]*$"),
    Expect("the name of a Kubernetes resource such as nvidia.com/gpu"),
]


class SecretKeyRef(SpecModel):
    """One key of a Secret in the run's namespace; given to the pods, never read by the operator."""

    name: ObjectName = Field(description="name: the Secret. Required.")
    key: Annotated[
        str,
        Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$"),
        Expect("a key of the Secret: letters, digits, '-', '_' and '.'"),
    ] = Field(description="key: the key in the Secret. Required.")


class SecretRef(SpecModel):
    """A whole Secret in the run's namespace: its keys become environment variables of the pods."""

    name: ObjectName = Field(description="name: the Secret. Required.")


class VolumeClaim(SpecModel):
    """A PersistentVolumeClaim in the run's namespace."""

    claim_name: ObjectName = Field(description="claimName: the PersistentVolumeClaim. Required.")
    sub_path: SubPath | None = Field(
        default=None, description="subPath: folder in the volume. Default null: the volume's root."
    )


class Resources(SpecModel):
    """Requests and limits of a container, as in Kubernetes."""

    requests: dict[ResourceName, Quantity] = Field(
        default_factory=dict,
        max_length=32,
        description="requests: quantity by resource name. Default {}: the chart's jobs.resources.",
    )
    limits: dict[ResourceName, Quantity] = Field(
        default_factory=dict,
        max_length=32,
        description="limits: quantity by resource name. Default {}: the chart's jobs.resources.",
    )
