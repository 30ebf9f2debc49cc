"""The operator's settings, from the environment; the chart sets the variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from annotationrun_operator.errors import SettingsError
from annotationrun_operator.job_settings import ContainerDefaults, JobSettings

LogFormat = Literal["plain", "json"]

_NAMESPACES = "ANNOTATIONRUN_NAMESPACES"
_RESYNC_SECONDS = "ANNOTATIONRUN_RESYNC_SECONDS"
_HEALTH_PORT = "ANNOTATIONRUN_HEALTH_PORT"
_METRICS_PORT = "ANNOTATIONRUN_METRICS_PORT"
_LOG_FORMAT = "ANNOTATIONRUN_LOG_FORMAT"
_WORKER_IMAGE = "ANNOTATIONRUN_WORKER_IMAGE"
_WORKER_IMAGE_PULL_POLICY = "ANNOTATIONRUN_WORKER_IMAGE_PULL_POLICY"
_VLLM_IMAGE = "ANNOTATIONRUN_VLLM_IMAGE"
_JOB_DEFAULTS = "ANNOTATIONRUN_JOB_DEFAULTS"
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
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
        log_format=_read_log_format(environment.get(_LOG_FORMAT, "")),
    )


class _Resources(BaseModel):
    """Requests and limits of a container; YAML gives a quantity such as 1 as a number."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    requests: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)


_JOB_RESOURCES = TypeAdapter(dict[Literal["plan", "worker", "merge", "sidecar"], _Resources])


def read_job_settings(environment: Mapping[str, str]) -> JobSettings:
    """Read what all Jobs are given; an empty variable is one that is not set.

    Raises:
        SettingsError: a variable is wrong, or an image is not named; the text names it.
    """
    policy = environment.get(_WORKER_IMAGE_PULL_POLICY, "").strip() or "IfNotPresent"
    if policy not in _PULL_POLICIES:
        raise SettingsError(
            f"{_WORKER_IMAGE_PULL_POLICY}: expected one of {', '.join(_PULL_POLICIES)}, got {policy[:80]!r}"
        )
    return JobSettings(
        worker_image=_read_image(environment, _WORKER_IMAGE),
        vllm_image=_read_image(environment, _VLLM_IMAGE),
        image_pull_policy=policy,
        **_read_job_resources(environment.get(_JOB_DEFAULTS, "")),
    )


def _read_image(environment: Mapping[str, str], variable: str) -> str:
    image = environment.get(variable, "").strip()
    if not image:
        raise SettingsError(f"{variable}: expected a container image, got nothing; the chart sets it")
    return image


def _read_job_resources(text: str) -> dict[str, ContainerDefaults]:
    try:
        found = _JOB_RESOURCES.validate_json(text.strip() or "{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        raise SettingsError(
            f"{_JOB_DEFAULTS}: expected JSON with requests and limits for plan, worker, merge, sidecar;"
            f" {place}: {first['msg']}"
        ) from error
    return {container: ContainerDefaults(given.requests, given.limits) for container, given in found.items()}


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


def _read_log_format(text: str) -> LogFormat:
    word = text.strip() or "plain"
    if word not in get_args(LogFormat):
        raise SettingsError(f"{_LOG_FORMAT}: expected plain or json, got {word[:80]!r}")
    return cast(LogFormat, word)
