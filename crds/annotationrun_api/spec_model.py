"""The vision-language model and how it is served: ``spec.model``."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from annotationrun_api.spec_types import (
    EffectOnly,
    Endpoint,
    Expect,
    Quantity,
    ResourceName,
    Resources,
    Revision,
    Rule,
    SecretKeyRef,
    SpecModel,
    VolumeClaim,
)


def _external_without_endpoints(values: Mapping[str, object]) -> str | None:
    without = values["mode"] == "External" and not values["endpoints"]
    return "mode External without endpoints" if without else None


def _sidecar_with_endpoints(values: Mapping[str, object]) -> str | None:
    return "endpoints with mode Sidecar" if values["mode"] == "Sidecar" and values["endpoints"] else None


def _output_fills_context(values: Mapping[str, object]) -> str | None:
    output, context = values["maxOutputTokens"], values["contextTokens"]
    if isinstance(output, int) and isinstance(context, int) and output >= context:
        return f"maxOutputTokens {output} with contextTokens {context}"
    return None


def _thinking_off() -> dict[str, JsonValue]:
    return {"enable_thinking": False}


def is_hub_model(model_id: str) -> bool:
    """Whether a model's name is that of a repository on the Hub, and not of a folder or an object store."""
    return _HUB_MODEL.fullmatch(model_id) is not None


# https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_validators.py
_HUB_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


class ServingSpec(SpecModel):
    """Who serves the model: a vLLM sidecar of each worker, or servers that run already."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "mode",
            _external_without_endpoints,
            "at least one base URL in endpoints when mode is External",
            "add endpoints, such as [http://localhost:8000/v1]",
            "!has(self.mode) || self.mode != 'External' || (has(self.endpoints) && size(self.endpoints) > 0)",
        ),
        Rule(
            "endpoints",
            _sidecar_with_endpoints,
            "endpoints only with mode External",
            "set mode: External, or remove endpoints",
            "!has(self.endpoints) || size(self.endpoints) == 0"
            " || (has(self.mode) && self.mode == 'External')",
        ),
    )

    mode: Literal["Sidecar", "External"] = Field(
        default="Sidecar",
        description="mode: Sidecar (a vLLM server beside each worker) or External (endpoints)."
        " Default Sidecar.",
    )
    endpoints: tuple[Endpoint, ...] = Field(
        default=(),
        max_length=64,
        description="endpoints: base URLs of OpenAI-compatible servers, for mode External. Default []: none.",
    )
    api_key_secret_ref: SecretKeyRef | None = Field(
        default=None, description="apiKeySecretRef: API key of the endpoints. Default null: none is sent."
    )
    image: Annotated[
        Annotated[str, Field(max_length=512, pattern=r"^\S+$"), Expect("a container image")] | None,
        EffectOnly.SIDECAR,
    ] = Field(
        default=None,
        description="image: container image of the sidecar. Default null: the chart's vLLM image.",
    )
    args: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], EffectOnly.SIDECAR] = Field(
        default=(), max_length=128, description="args: further arguments of vllm serve. Default []: none."
    )
    gpus: Annotated[int, EffectOnly.SIDECAR] = Field(
        default=1, ge=0, le=64, description="gpus: GPUs of the sidecar. Default 1. 0: none, on CPUs."
    )
    gpu_resource: Annotated[ResourceName, EffectOnly.SIDECAR] = Field(
        default="nvidia.com/gpu",
        description="gpuResource: resource that gpus counts. Default nvidia.com/gpu.",
    )
    shared_memory: Annotated[Quantity, EffectOnly.SIDECAR] = Field(
        default="16Gi", description="sharedMemory: size of /dev/shm of the sidecar. Default 16Gi."
    )
    start_timeout_seconds: Annotated[int, EffectOnly.CLUSTER] = Field(
        default=1800,
        ge=1,
        le=86_400,
        description="startTimeoutSeconds: seconds that the server may take until it is healthy."
        " Default 1800.",
    )
    cache: Annotated[VolumeClaim | None, EffectOnly.SIDECAR] = Field(
        default=None,
        description="cache: claim that keeps the model's files, for mode Sidecar: a Job fills it, and"
        " sidecars read it offline. Default null: each pod downloads them.",
    )
    token_secret_ref: Annotated[SecretKeyRef | None, EffectOnly.SIDECAR] = Field(
        default=None,
        description="tokenSecretRef: Hub token to look up the model's commit and to download the model, for"
        " mode Sidecar. Default null: anonymous.",
    )
    local_media: Annotated[bool, EffectOnly.SIDECAR] = Field(
        default=False,
        description="localMedia: pictures go to the sidecar as files of a volume that both share, not inside"
        " the requests. Default false.",
    )
    resources: Annotated[Resources, EffectOnly.SIDECAR] = Field(
        default_factory=Resources,
        description="resources: requests and limits of the sidecar, besides its GPUs. Default {}: the"
        " chart's.",
    )

    @property
    def mounted_cache(self) -> VolumeClaim | None:
        """The claim that pods read the model from; None with mode External, whatever ``cache`` is."""
        return self.cache if self.mode == "Sidecar" else None


class ModelSpec(SpecModel):
    """The model, its sampling and its limits."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "maxOutputTokens",
            _output_fills_context,
            "maxOutputTokens smaller than contextTokens",
            "lower maxOutputTokens, or raise contextTokens if the model has more",
            "self.maxOutputTokens < self.contextTokens",
        ),
    )

    id: Annotated[
        str, Field(max_length=512, pattern=r"^\S+$"), Expect("the model's name, such as Qwen/Qwen3.6-27B")
    ] = Field(description="id: the model's name on the Hub and at the server. Required.")
    revision: Revision = Field(
        default="main",
        description="revision: branch, tag or commit of the model's repository. With mode Sidecar each plan"
        " asks the Hub which commit it names. Default main.",
    )
    serving: ServingSpec = Field(
        default_factory=ServingSpec, description="serving: who serves the model. Default {mode: Sidecar}."
    )
    context_tokens: int = Field(
        default=32768,
        ge=1024,
        le=10_000_000,
        description="contextTokens: tokens of prompt and answer together. Default 32768.",
    )
    max_output_tokens: int = Field(
        default=512,
        ge=16,
        le=1_000_000,
        description="maxOutputTokens: tokens of an answer; doubled at most twice if cut off. Default 512.",
    )
    temperature: float = Field(
        default=0.2,
        ge=0,
        le=2,
        description="temperature: sampling temperature. Default 0.2. 0: the likeliest token.",
    )
    request_timeout_seconds: int = Field(
        default=300,
        ge=1,
        le=86_400,
        description="requestTimeoutSeconds: seconds that one request may take. Default 300.",
    )
    structured_outputs: Literal["Auto", "Required", "Never"] = Field(
        default="Auto",
        description="structuredOutputs: send JSON schemas; Auto falls back to text where a server"
        " refuses them,"
        " Required fails there, Never sends none. Default Auto.",
    )
    coordinate_scale: Literal["Auto", "Pixels", "Thousandths"] = Field(
        default="Auto",
        description="coordinateScale: unit of the boxes and points that the model answers; Auto"
        " looks it up in the"
        " shipped table. Default Auto.",
    )
    chat_template_args: dict[Annotated[str, Field(min_length=1, max_length=128)], JsonValue] = Field(
        default_factory=_thinking_off,
        max_length=64,
        description="chatTemplateArgs: chat_template_kwargs of each request; a value given replaces"
        " the whole."
        " Default {enable_thinking: false}.",
    )
    reasoning_effort: (
        Annotated[
            str, Field(max_length=32, pattern=r"^[a-z]+$"), Expect("a word such as low, medium or high")
        ]
        | None
    ) = Field(
        default=None, description="reasoningEffort: reasoning_effort of each request. Default null: not sent."
    )

    @property
    def is_fetched(self) -> bool:
        """Whether servers of ours fetch the model from the Hub; what others serve, nobody knows here."""
        return self.serving.mode == "Sidecar" and is_hub_model(self.id)
