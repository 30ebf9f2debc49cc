"""The operator's settings, from the environment; the chart sets the variables."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from annotationrun_api.spec_types import Quantity
from annotationrun_operator.errors import SettingsError
from annotationrun_operator.manifests.installation import (
    EVERYTHING,
    Allowed,
    CaBundle,
    ContainerDefaults,
    JobSettings,
)

LogFormat = Literal["plain", "json"]

_NAMESPACES = "ANNOTATIONRUN_NAMESPACES"
_RESYNC_SECONDS = "ANNOTATIONRUN_RESYNC_SECONDS"
_HEALTH_PORT = "ANNOTATIONRUN_HEALTH_PORT"
_METRICS_PORT = "ANNOTATIONRUN_METRICS_PORT"
_LOG_FORMAT = "ANNOTATIONRUN_LOG_FORMAT"
_WORKER_IMAGE = "ANNOTATIONRUN_WORKER_IMAGE"
_WORKER_IMAGE_PULL_POLICY = "ANNOTATIONRUN_WORKER_IMAGE_PULL_POLICY"
_VLLM_IMAGE = "ANNOTATIONRUN_VLLM_IMAGE"
_VLLM_HOST = "ANNOTATIONRUN_VLLM_HOST"
_VLLM_ARGS = "ANNOTATIONRUN_VLLM_ARGS"
_JOB_DEFAULTS = "ANNOTATIONRUN_JOB_DEFAULTS"
_POD_ENV = "ANNOTATIONRUN_POD_ENV"
_CA_BUNDLE = "ANNOTATIONRUN_CA_BUNDLE"
_ALLOWED = "ANNOTATIONRUN_ALLOWED"
_OURS = "ANNOTATIONRUN_"
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_SERVER_HOSTS = ("127.0.0.1", "0.0.0.0", "::")  # the pod's; who wants it says so  # noqa: S104  # nosec B104
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How the operator runs; what its Jobs are made of is set elsewhere."""

    namespaces: tuple[str, ...] = ()
    """Namespaces that are served; empty: all, for which the operator needs a ClusterRole."""
    resync_seconds: int = 300
    """All runs are looked at again after so long, give or take a fifth, though nothing changed."""
    health_port: int = 8080
    """TCP port of /healthz and /readyz. 0: any that is free."""
    metrics_port: int = 8081
    """TCP port of /metrics. 0: any that is free."""
    log_format: LogFormat = "plain"

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """What is listed: each namespace, or None for all at once."""
        return self.namespaces or (None,)


def read_settings(environment: Mapping[str, str]) -> OperatorSettings:
    """Read the settings; an empty variable is one that is not set.

    Raises:
        SettingsError: a variable is wrong; the text names it.
    """
    return OperatorSettings(
        namespaces=_read_namespaces(environment.get(_NAMESPACES, "")),
        resync_seconds=_read_number(environment, _RESYNC_SECONDS, 300, range(10, 86_401)),
        health_port=_read_number(environment, _HEALTH_PORT, 8080, range(65_536)),
        metrics_port=_read_number(environment, _METRICS_PORT, 8081, range(65_536)),
        log_format=cast(LogFormat, _read_choice(environment, _LOG_FORMAT, "plain", get_args(LogFormat))),
    )


_UNITS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000)} | {
    letter + suffix: Decimal(base) ** power
    for power, letter in enumerate("KMGTPE", start=1)
    for suffix, base in (("", 1000), ("i", 1024))
}


class _Resources(BaseModel):
    """Requests and limits of a container; YAML gives a quantity such as 1 as a number."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)


class _EnvVar(BaseModel):
    """An EnvVar of Kubernetes; what ``valueFrom`` holds is for the API server to judge."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]
    value: str | None = None
    value_from: dict[str, JsonValue] | None = Field(default=None, alias="valueFrom")


class _CaBundle(BaseModel):
    """A key of a ConfigMap or of a Secret."""

    model_config = ConfigDict(extra="forbid")
    config_map_name: str = Field(default="", alias="configMapName")
    secret_name: str = Field(default="", alias="secretName")
    key: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if bool(self.config_map_name) == bool(self.secret_name):
            raise ValueError("expected one of configMapName and secretName")
        return self


_Choices = tuple[Annotated[str, Field(pattern=r"^(\*|[^\s*]+\*?)$")], ...]
_Images = tuple[Annotated[str, Field(pattern=r"^(\*|[^\s*]+|[^\s*]+[/:@]\*)$")], ...]
"""What stands before ``*`` ends with a part of the name: else another registry could begin alike."""


class _Allowed(BaseModel):
    """What runs may choose."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel)
    serving_images: _Images = EVERYTHING
    service_account_names: _Choices = EVERYTHING
    priority_class_names: _Choices = EVERYTHING
    runtime_class_names: _Choices = EVERYTHING
    annotation_keys: _Choices = EVERYTHING


_JOB_RESOURCES = TypeAdapter(dict[Literal["plan", "worker", "merge", "sidecar"], _Resources])
_ENV_VARS = TypeAdapter(tuple[_EnvVar, ...])
_CA = TypeAdapter(_CaBundle)
_CHOICES = TypeAdapter(_Allowed)
_ARGUMENTS = TypeAdapter(tuple[str, ...])
_ValueT = TypeVar("_ValueT")


def read_job_settings(environment: Mapping[str, str]) -> JobSettings:
    """Read what all Jobs are given; an empty variable is one that is not set.

    Raises:
        SettingsError: a variable is wrong, or an image is not named; the text names it.
    """
    return JobSettings(
        worker_image=_read_image(environment, _WORKER_IMAGE),
        vllm_image=_read_image(environment, _VLLM_IMAGE),
        image_pull_policy=_read_choice(
            environment, _WORKER_IMAGE_PULL_POLICY, "IfNotPresent", _PULL_POLICIES
        ),
        pod_env=_read_pod_env(environment.get(_POD_ENV, "")),
        ca_bundle=_read_ca_bundle(environment.get(_CA_BUNDLE, "")),
        server_host=_read_choice(environment, _VLLM_HOST, "127.0.0.1", _SERVER_HOSTS),
        server_args=_read_json(
            _VLLM_ARGS, environment.get(_VLLM_ARGS, ""), "[]", _ARGUMENTS, "a list of texts"
        ),
        allowed=_read_allowed(environment.get(_ALLOWED, "")),
        **_read_job_resources(environment.get(_JOB_DEFAULTS, "")),
    )


def _read_choice(environment: Mapping[str, str], variable: str, default: str, choices: Sequence[str]) -> str:
    word = environment.get(variable, "").strip() or default
    if word not in choices:
        raise SettingsError(f"{variable}: expected one of {', '.join(choices)}, got {word[:80]!r}")
    return word


def _read_image(environment: Mapping[str, str], variable: str) -> str:
    image = environment.get(variable, "").strip()
    if not image:
        raise SettingsError(f"{variable}: expected a container image, got nothing; the chart sets it")
    return image


def _read_job_resources(text: str) -> dict[str, ContainerDefaults]:
    found = _read_json(
        _JOB_DEFAULTS, text, "{}", _JOB_RESOURCES, "requests and limits for plan, worker, merge, sidecar"
    )
    for container, given in found.items():
        for resource in given.requests.keys() & given.limits.keys():
            request, limit = given.requests[resource], given.limits[resource]
            if _amount(request) > _amount(limit):
                raise SettingsError(
                    f"{_JOB_DEFAULTS}: {container} requests {request} of {resource}, its limit is {limit};"
                    f" expected a limit no lower than that (jobs.resources.{container}.limits of the chart)"
                )
    return {container: ContainerDefaults(given.requests, given.limits) for container, given in found.items()}


def _amount(quantity: str) -> Decimal:
    """A quantity of Kubernetes as a number."""
    number = quantity.rstrip("mkKMGTPEi")
    return Decimal(number) * _UNITS[quantity.removeprefix(number)]


def _read_pod_env(text: str) -> tuple[Mapping[str, Any], ...]:
    found = _read_json(_POD_ENV, text, "[]", _ENV_VARS, "a list of EnvVars")
    names = [variable.name for variable in found]
    for name in names:
        if names.count(name) > 1 or name.startswith(_OURS):
            raise SettingsError(f"{_POD_ENV}: expected names that stand once and are not ours, got {name!r}")
    return tuple(variable.model_dump(mode="json", by_alias=True, exclude_none=True) for variable in found)


def _read_ca_bundle(text: str) -> CaBundle | None:
    if not text.strip():
        return None
    found = _read_json(_CA_BUNDLE, text, "", _CA, "configMapName or secretName, and key")
    return CaBundle(found.key, found.config_map_name, found.secret_name)


def _read_allowed(text: str) -> Allowed:
    expected = "lists of texts, or of beginnings of texts before * (of images after one of /:@)"
    found = _read_json(_ALLOWED, text, "{}", _CHOICES, expected)
    return Allowed(**dict(found))


def _read_json(
    variable: str, text: str, default: str, adapter: TypeAdapter[_ValueT], expected: str
) -> _ValueT:
    try:
        return adapter.validate_json(text.strip() or default)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        raise SettingsError(f"{variable}: expected JSON with {expected}; {place}: {first['msg']}") from error


def _read_namespaces(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if _NAMESPACE.fullmatch(name) is None:
            raise SettingsError(
                f"{_NAMESPACES}: {name[:80]!r} is no name of a namespace;"
                " expected names with commas between, such as team-a,team-b, or nothing for all namespaces"
            )
    return names


def _read_number(environment: Mapping[str, str], variable: str, default: int, allowed: range) -> int:
    text = environment.get(variable, "").strip()
    if not text:
        return default
    if re.fullmatch(r"[0-9]{1,9}", text) is None or int(text) not in allowed:
        raise SettingsError(
            f"{variable}: expected a whole number from {allowed.start} to {allowed.stop - 1},"
            f" got {text[:80]!r}"
        )
    return int(text)
