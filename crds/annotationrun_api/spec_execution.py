"""How a run is carried out: frames, workers, and what it may lose."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue

from annotationrun_api.schema_marks import IntOrString
from annotationrun_api.spec_types import (
    EffectOnly,
    Expect,
    ObjectName,
    ResourceName,
    Resources,
    Rule,
    SpecModel,
)

_LIMIT_EXPECTED = 'a whole number of episodes from 0 on, or a share from "0%" to "100%"'
_PERCENT = re.compile(r"(100|[1-9]?[0-9])%")
_MAX_EPISODES = 1_000_000_000


def _check_episode_limit(value: object) -> object:
    if isinstance(value, str) and _PERCENT.fullmatch(value):
        return value
    if type(value) is int and 0 <= value <= _MAX_EPISODES:  # a bool is an int to Python
        return value
    raise ValueError(_LIMIT_EXPECTED)


LabelValue = Annotated[
    str,
    Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"),
    Expect("a label's value: up to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"),
]
LabelMap = dict[ResourceName, LabelValue]


class FramesSpec(SpecModel):
    """How frames are decoded."""

    backend: Literal["auto", "ffmpeg", "pyav", "torchcodec"] = Field(
        default="auto",
        description="backend: decoder; auto is pyav, with ffmpeg for files that it can't decode."
        " Default auto.",
    )
    default_camera: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None,
        description="defaultCamera: feature name of the camera to look at. Default null: the first.",
    )
    cache_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        le=1 << 40,
        description="cacheBytes: bytes of decoded frames that are kept. Default 1073741824. 0: none.",
    )
    tolerance_seconds: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="toleranceSeconds: how far a frame's time may be off in the video; 0.45 of the"
        " gap to the next"
        " frame is a limit too. Default 0.01.",
    )


def _value_with_exists(values: Mapping[str, object]) -> str | None:
    return "value with operator Exists" if values["operator"] == "Exists" and values["value"] else None


def _equal_without_key(values: Mapping[str, object]) -> str | None:
    return "operator Equal without key" if values["operator"] == "Equal" and values["key"] is None else None


def _seconds_without_no_execute(values: Mapping[str, object]) -> str | None:
    without = values["tolerationSeconds"] is not None and values["effect"] != "NoExecute"
    return "tolerationSeconds without effect NoExecute" if without else None


class Toleration(SpecModel):
    """A toleration of a pod, as in Kubernetes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "value",
            _value_with_exists,
            "value only with operator Equal",
            "set operator: Equal, or remove value",
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
        ),
        Rule(
            "key",
            _equal_without_key,
            "a key, or operator Exists, which tolerates every key",
            "add key, or set operator: Exists",
            "has(self.key) || (has(self.operator) && self.operator == 'Exists')",
        ),
        Rule(
            "tolerationSeconds",
            _seconds_without_no_execute,
            "tolerationSeconds only with effect NoExecute",
            "set effect: NoExecute, or remove tolerationSeconds",
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        ),
    )

    key: ResourceName | None = Field(
        default=None, description="key: the taint's key. Default null: every key."
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="operator: Exists or Equal. Default Equal."
    )
    value: LabelValue | None = Field(
        default=None, description="value: the taint's value, with operator Equal. Default null: empty."
    )
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect: the taint's effect. Default null: every effect."
    )
    toleration_seconds: int | None = Field(
        default=None,
        ge=0,
        le=31_536_000,
        description="tolerationSeconds: seconds a NoExecute taint is tolerated. Default null: for ever.",
    )


class PullSecret(SpecModel):
    """A Secret with the credentials of an image registry."""

    name: ObjectName = Field(description="name: the Secret. Required.")


class PodOverlay(SpecModel):
    """What a user may add to the worker pods."""

    labels: LabelMap = Field(
        default_factory=dict, max_length=32, description="labels: added labels. Default {}."
    )
    annotations: dict[ResourceName, Annotated[str, Field(max_length=4096)]] = Field(
        default_factory=dict, max_length=32, description="annotations: added annotations. Default {}."
    )
    node_selector: LabelMap = Field(
        default_factory=dict,
        max_length=32,
        description="nodeSelector: labels a node must have. Default {}: any node.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="tolerations: taints the pods tolerate. Default []: none."
    )
    affinity: dict[Annotated[str, Field(max_length=63)], JsonValue] = Field(
        default_factory=dict,
        max_length=8,
        description="affinity: affinity as in Kubernetes. Default {}: none.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="priorityClassName: priority class. Default null: the cluster's."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="runtimeClassName: runtime class. Default null: the cluster's."
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="serviceAccountName: service account; its token is not mounted. Default null: default.",
    )
    image_pull_secrets: tuple[PullSecret, ...] = Field(
        default=(), max_length=16, description="imagePullSecrets: Secrets to pull images. Default []: none."
    )


class WorkersSpec(SpecModel):
    """How much is done at once, and how often it is tried."""

    parallelism: Annotated[int, EffectOnly.CLUSTER] = Field(
        default=1,
        ge=1,
        le=10_000,
        description="parallelism: worker pods, each with its model server. Default 1.",
    )
    episode_concurrency: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="episodeConcurrency: episodes a worker holds at once. Default 16.",
    )
    request_concurrency: int = Field(
        default=16,
        ge=1,
        le=4096,
        description="requestConcurrency: requests a worker has in flight. Default 16.",
    )
    episode_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="episodeAttempts: tries before an episode is given up. Default 3.",
    )
    resources: Annotated[Resources, EffectOnly.CLUSTER] = Field(
        default_factory=Resources,
        description="resources: requests and limits of the worker. Default {}: the chart's.",
    )
    pod: Annotated[PodOverlay, EffectOnly.CLUSTER] = Field(
        default_factory=PodOverlay, description="pod: added to the worker pods. Default {}: nothing."
    )


class FailurePolicy(SpecModel):
    """What may be missing in a dataset that is still published."""

    max_failed_episodes: Annotated[
        int | str,
        BeforeValidator(_check_episode_limit),
        IntOrString(minimum=0, maximum=_MAX_EPISODES, pattern=f"^{_PERCENT.pattern}$", characters=4),
        Expect(_LIMIT_EXPECTED),
    ] = Field(
        default=0,
        description='maxFailedEpisodes: episodes, or a share of them such as "5%", that may fail.'
        " Default 0: none.",
    )
    max_unanswered_percent: float = Field(
        default=10.0,
        ge=0,
        le=100,
        description="maxUnansweredPercent: percent of an episode's vqa and interjection requests that may"
        " stay without a"
        " usable answer. Default 10.0. 0: none.",
    )
