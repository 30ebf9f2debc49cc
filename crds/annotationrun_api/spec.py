"""The manifest as a value: `AnnotationRun`, of apiVersion ``annotationrun.dev/v1alpha1``.

Attributes are the YAML names in snake case. `annotationrun_api.manifest` makes one from a file.
"""

from typing import Annotated, Literal

from pydantic import Field

from annotationrun_api.spec_execution import FailurePolicy, FramesSpec, WorkersSpec
from annotationrun_api.spec_model import ModelSpec
from annotationrun_api.spec_modules import ModulesSpec
from annotationrun_api.spec_source import OutputSpec, SourceSpec, StagingSpec
from annotationrun_api.spec_types import EffectOnly, Expect, Name, ObjectName, SpecModel

KIND = "AnnotationRun"

# Jobs and pods are named after the run with a step, a hash and an index; their names have 63 characters.
_RUN_NAME_CHARACTERS = 48

RunName = Annotated[
    str,
    Field(min_length=1, max_length=_RUN_NAME_CHARACTERS, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    Expect(
        f"a DNS-1123 label of up to {_RUN_NAME_CHARACTERS} characters:"
        " lower-case letters, digits and '-', a letter or digit at both ends"
    ),
]
PromptName = Annotated[
    str, Field(max_length=64, pattern=r"^[a-z][a-z0-9_]*$"), Expect("the name of a prompt such as vqa_bbox")
]
MetadataKey = Annotated[str, Field(min_length=1, max_length=317)]


class Metadata(SpecModel):
    """Name and labels of the run."""

    name: RunName = Field(description="name: name of the run. Required.")
    namespace: Name | None = Field(
        default=None, description="namespace: namespace in a cluster. Default null: the current one."
    )
    labels: dict[MetadataKey, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=256, description="labels: labels of the run. Default {}: none."
    )
    annotations: dict[MetadataKey, Annotated[str, Field(max_length=262_144)]] = Field(
        default_factory=dict,
        max_length=256,
        description="annotations: annotations of the run. Default {}: none.",
    )


class RunSpec(SpecModel):
    """What is annotated, with which model, how, and where it goes."""

    source: SourceSpec = Field(description="source: the dataset. Required.")
    output: OutputSpec = Field(description="output: where the annotated dataset goes. Required.")
    model: ModelSpec = Field(description="model: the vision-language model. Required.")
    modules: ModulesSpec = Field(description="modules: which annotations are made. Required.")
    prompts: dict[PromptName, Annotated[str, Field(min_length=1, max_length=16_384)]] = Field(
        default_factory=dict,
        max_length=64,
        description="prompts: texts that replace shipped prompts, by name. A text has to keep the"
        " placeholders that its answers depend on, such as {shown}. Default {}: none.",
    )
    seed: int = Field(
        default=1729,
        ge=0,
        le=2_147_483_647,  # the largest that every server takes
        description="seed: seed of all random choices, and of the model's sampling. Default 1729.",
    )
    output_language: Annotated[
        str, Field(max_length=64, pattern=r"^\S(.*\S)?$"), Expect("a language in English, such as French")
    ] = Field(default="English", description="outputLanguage: language of the annotations. Default English.")
    frames: FramesSpec = Field(
        default_factory=FramesSpec, description="frames: decoding. Default {backend: auto}."
    )
    workers: WorkersSpec = Field(
        default_factory=WorkersSpec, description="workers: concurrency and pods. Default {parallelism: 1}."
    )
    staging: StagingSpec = Field(
        default_factory=StagingSpec,
        description="staging: where answers and results are kept. Default {}: on one machine a"
        " folder beside the"
        " output; a cluster needs uri or volume.",
    )
    failure_policy: FailurePolicy = Field(
        default_factory=FailurePolicy,
        description="failurePolicy: what may be missing. Default {maxFailedEpisodes: 0}.",
    )
    retry_token: Annotated[str, Field(max_length=64)] = Field(
        default="",
        description="retryToken: a new value retries the episodes that were given up, and the questions that"
        ' got no usable answer. Default "": the first attempt.',
    )
    suspend: bool = Field(
        default=False, description="suspend: hold the run; what is staged stays. Default false."
    )
    ttl_seconds_after_finished: Annotated[int | None, EffectOnly.CLUSTER] = Field(
        default=None,
        ge=0,
        le=2_147_483_647,
        description="ttlSecondsAfterFinished: seconds after which finished Jobs are removed. Default"
        " null: never."
        " 0: at once.",
    )
    active_deadline_seconds: Annotated[int | None, EffectOnly.CLUSTER] = Field(
        default=None,
        ge=1,
        le=2_147_483_647,
        description="activeDeadlineSeconds: seconds that the run may be active. Default null: no limit.",
    )
    start_deadline_seconds: Annotated[int, EffectOnly.CLUSTER] = Field(
        default=3600,
        ge=1,
        le=2_147_483_647,
        description="startDeadlineSeconds: seconds until the pods must have started. Default 3600.",
    )
    queue_name: Annotated[ObjectName | None, EffectOnly.CLUSTER] = Field(
        default=None, description="queueName: Kueue LocalQueue of the Jobs. Default null: no queue."
    )


class AnnotationRun(SpecModel):
    """One manifest."""

    api_version: Literal["annotationrun.dev/v1alpha1"] = Field(
        description="apiVersion: annotationrun.dev/v1alpha1. Required."
    )
    kind: Literal["AnnotationRun"] = Field(description="kind: AnnotationRun. Required.")
    metadata: Metadata = Field(description="metadata: name and labels. Required.")
    spec: RunSpec = Field(description="spec: what is annotated, and how. Required.")
