"""Manifests that must be refused: one for each rule, enum, bound, pattern and required field of the spec.

The loader refuses all of them.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

VALID: dict[str, object] = {
    "apiVersion": "annotationrun.dev/v1alpha1",
    "kind": "AnnotationRun",
    "metadata": {"name": "invalid"},
    "spec": {
        "source": {"path": "blocks", "volume": {"claimName": "datasets"}},
        "output": {"path": "annotated", "volume": {"claimName": "datasets"}},
        "model": {"id": "demo-vlm", "serving": {"mode": "External", "endpoints": ["http://demo:8000/v1"]}},
        "modules": {"vqa": {}},
        "staging": {"volume": {"claimName": "datasets", "subPath": "staging"}},
    },
}
"""What each of them would be without its one mistake."""

REMOVED = object()


class Guard(Enum):
    """Who refuses a manifest in a cluster."""

    SCHEMA = "the API server, by the CRD; its message names the field"
    KUBECTL = "kubectl, or the API server before it looks at the CRD; in words of its own"
    OPERATOR = "the operator, as Stalled; its message names the field"


@dataclass(frozen=True, slots=True)
class Invalid:
    """The valid manifest with values set by path, or removed."""

    name: str
    field: str
    """The path that a message has to name, or the beginning of it."""
    values: Mapping[str, object]
    guard: Guard = Guard.SCHEMA

    def manifest(self) -> dict[str, object]:
        manifest = copy.deepcopy(VALID)
        for path, value in self.values.items():
            *parents, last = path.split(".")
            place = manifest
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is REMOVED:
                del place[last]
            else:
                place[last] = value
        return manifest

    def text(self) -> str:
        """The manifest as JSON, which is YAML."""
        return json.dumps(self.manifest(), indent=1)


def _each(field: str, *values: object, guard: Guard = Guard.SCHEMA) -> Iterator[Invalid]:
    for value in values:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        yield Invalid(f"{field} is {shown}", field, {field: value}, guard)


def _without(*fields: str, guard: Guard = Guard.SCHEMA) -> Iterator[Invalid]:
    for field in fields:
        yield Invalid(f"{field} is missing", field, {field: REMOVED}, guard)


_RULES = (
    Invalid("a source that is both", "spec.source", {"spec.source.repoID": "lerobot/x"}),
    Invalid(
        "a source that is neither",
        "spec.source",
        {"spec.source.path": REMOVED, "spec.source.volume": REMOVED},
    ),
    Invalid(
        "a source's volume without path",
        "spec.source.volume",
        {"spec.source.path": REMOVED, "spec.source.repoID": "lerobot/x"},
    ),
    Invalid("an output that is both", "spec.output", {"spec.output.repoID": "me/x"}),
    Invalid(
        "an output that is neither",
        "spec.output",
        {"spec.output.path": REMOVED, "spec.output.volume": REMOVED},
    ),
    Invalid(
        "an output's volume without path",
        "spec.output.volume",
        {"spec.output.path": REMOVED, "spec.output.repoID": "me/x"},
    ),
    *(
        Invalid(f"{place} path out of its volume: {path}", f"spec.{place}", {f"spec.{place}.path": path})
        for place in ("source", "output")
        for path in ("..", "../..", "/../other", "a/../../other", "a/..")
    ),
    Invalid(
        "a source's path out of its subPath",
        "spec.source",
        {"spec.source.volume.subPath": "team-a", "spec.source.path": "../team-b"},
    ),
    Invalid(
        "overwriting on the Hub",
        "spec.output.overwrite",
        {
            "spec.output.path": REMOVED,
            "spec.output.volume": REMOVED,
            "spec.output.repoID": "me/x",
            "spec.output.overwrite": True,
        },
    ),
    Invalid("a private folder", "spec.output.private", {"spec.output.private": True}),
    Invalid("a pull request for a folder", "spec.output.pullRequest", {"spec.output.pullRequest": True}),
    Invalid("two staging places", "spec.staging", {"spec.staging.uri": "s3://bucket/staging"}),
    Invalid(
        "credentials for a volume",
        "spec.staging.credentialsSecretRef",
        {"spec.staging.credentialsSecretRef": {"name": "s3"}},
    ),
    Invalid(
        "mode External without endpoints", "spec.model.serving", {"spec.model.serving.endpoints": REMOVED}
    ),
    Invalid("mode External with no endpoint", "spec.model.serving", {"spec.model.serving.endpoints": []}),
    Invalid("a sidecar with endpoints", "spec.model.serving", {"spec.model.serving.mode": "Sidecar"}),
    Invalid(
        "a sidecar by default, with endpoints", "spec.model.serving", {"spec.model.serving.mode": REMOVED}
    ),
    Invalid("an answer as long as the context", "spec.model", {"spec.model.maxOutputTokens": 32_768}),
    Invalid(
        "an answer longer than the context",
        "spec.model",
        {"spec.model.maxOutputTokens": 5000, "spec.model.contextTokens": 4096},
    ),
    Invalid("no module", "spec.modules", {"spec.modules": {}}),
    Invalid("no module that is on", "spec.modules", {"spec.modules": {"vqa": None}}),
    Invalid(
        "a toleration of every taint that has a value",
        "spec.workers.pod.tolerations[0]",
        {"spec.workers.pod.tolerations": [{"operator": "Exists", "value": "x"}]},
    ),
    Invalid(
        "a toleration of no taint",
        "spec.workers.pod.tolerations[0]",
        {"spec.workers.pod.tolerations": [{"value": "x"}]},
    ),
    Invalid(
        "a toleration that ends but evicts none",
        "spec.workers.pod.tolerations[0]",
        {"spec.workers.pod.tolerations": [{"key": "spot", "tolerationSeconds": 60}]},
    ),
)

_POD = "spec.workers.pod"
_SERVING = "spec.model.serving"
_PLAN = "spec.modules.plan"
_AXES = f"{_PLAN}.taskAxes"
_INTERJECTIONS = "spec.modules.interjections"
_VQA = "spec.modules.vqa"

_REQUIRED = (
    *_without("apiVersion", "kind", "metadata", "metadata.name", guard=Guard.KUBECTL),
    *_without("spec", "spec.source", "spec.output", "spec.model", "spec.model.id", "spec.modules"),
    *_without("spec.source.volume.claimName"),
    Invalid(
        "a Secret without name", "spec.source.tokenSecretRef.name", {"spec.source.tokenSecretRef.key": "t"}
    ),
    Invalid(
        "a Secret without key", "spec.source.tokenSecretRef.key", {"spec.source.tokenSecretRef.name": "t"}
    ),
    Invalid(
        "a Secret of credentials without name",
        "spec.staging.credentialsSecretRef.name",
        {"spec.staging": {"uri": "s3://a/b", "credentialsSecretRef": {}}},
    ),
    Invalid(
        "a pull secret without name",
        f"{_POD}.imagePullSecrets[0].name",
        {f"{_POD}.imagePullSecrets": [{}]},
    ),
)

_WORDS = (
    *_each("apiVersion", "annotationrun.dev/v1", guard=Guard.KUBECTL),
    *_each("kind", "AnnotationRuns", guard=Guard.KUBECTL),
    *_each("spec.source.follow.mode", "Off", False, "poll"),
    *_each("spec.output.existingRows", "Merge"),
    *_each(f"{_SERVING}.mode", "external"),
    *_each("spec.model.structuredOutputs", False, "Off"),
    *_each("spec.model.coordinateScale", "Percent"),
    *_each(f"{_PLAN}.input", "Sheets"),
    *_each(f"{_PLAN}.deriveTask", False, "Off"),
    *_each(f"{_VQA}.cameras", "Front"),
    Invalid(
        "a question type that is none", f"{_VQA}.questionTypes[1]", {f"{_VQA}.questionTypes": ["bbox", "x"]}
    ),
    *_each("spec.frames.backend", "opencv"),
    Invalid(
        "an operator that is none",
        f"{_POD}.tolerations[0].operator",
        {f"{_POD}.tolerations": [{"key": "a", "operator": "In"}]},
    ),
    Invalid(
        "an effect that is none",
        f"{_POD}.tolerations[0].effect",
        {f"{_POD}.tolerations": [{"key": "a", "effect": "Evict"}]},
    ),
)

_NUMBERS = (
    *_each("spec.source.follow.intervalSeconds", 59, 2_592_001),
    *_each(f"{_SERVING}.gpus", -1, 65, "1"),
    *_each(f"{_SERVING}.startTimeoutSeconds", 0, 86_401),
    *_each("spec.model.contextTokens", 1023, 10_000_001),
    *_each("spec.model.maxOutputTokens", 15, 1_000_001),
    *_each("spec.model.temperature", -0.1, 2.1),
    *_each("spec.model.requestTimeoutSeconds", 0, 86_401),
    *_each(f"{_PLAN}.framesPerSecond", 0, 121),
    *_each(f"{_PLAN}.maxFramesPerPrompt", 1, 1001),
    *_each(f"{_PLAN}.maxVideoFrames", 1, 1001),
    *_each(f"{_PLAN}.sheetColumns", 0, 21),
    *_each(f"{_PLAN}.framesPerSheet", 0, 201),
    *_each(f"{_PLAN}.tileWidth", 95, 2049),
    *_each(f"{_PLAN}.sheetJpegQuality", 29, 101),
    *_each(f"{_PLAN}.minSubtaskSeconds", -1, 3601),
    *_each(f"{_PLAN}.maxSteps", 0, 101),
    *_each(f"{_PLAN}.relabelFrames", 0, 101),
    *_each(f"{_PLAN}.deriveTaskMinWords", -1, 101),
    *_each(f"{_PLAN}.taskRephrasings", -1, 101),
    *_each(f"{_AXES}.synonymParaphrase", -1, 21),
    *_each(f"{_AXES}.omitArm", -1, 21),
    *_each(f"{_AXES}.omitOrientation", -1, 21),
    *_each(f"{_AXES}.omitGraspMethod", -1, 21),
    *_each(f"{_AXES}.combinedOmissions", -1, 21),
    *_each(f"{_INTERJECTIONS}.maxPerEpisode", -1, 101),
    *_each(f"{_INTERJECTIONS}.minTimeSeconds", -1, 86_401),
    *_each(f"{_INTERJECTIONS}.windowSeconds", 0, 601),
    *_each(f"{_INTERJECTIONS}.windowFrames", 0, 101),
    *_each(f"{_VQA}.emissionHz", 0, 241),
    *_each(f"{_VQA}.framesPerTick", 0, 1001, 1.5),
    *_each("spec.seed", -1, 2_147_483_648),
    *_each("spec.frames.cacheBytes", -1, (1 << 40) + 1),
    *_each("spec.source.cacheBytes", (1 << 20) - 1, (1 << 50) + 1),
    *_each("spec.frames.toleranceSeconds", 0, 1.1),
    *_each("spec.workers.parallelism", 0, 10_001),
    *_each("spec.workers.episodeConcurrency", 0, 1025),
    *_each("spec.workers.requestConcurrency", 0, 4097),
    *_each("spec.workers.episodeAttempts", 0, 101),
    *_each("spec.failurePolicy.maxFailedEpisodes", -1, 1_000_000_001, "101%", "5 %", "5", True, 0.5),
    *_each("spec.failurePolicy.maxUnansweredPercent", -1, 101),
    *_each("spec.ttlSecondsAfterFinished", -1, 2_147_483_648),
    *_each("spec.activeDeadlineSeconds", 0, 2_147_483_648),
    *_each("spec.startDeadlineSeconds", 0, 2_147_483_648),
    *(
        Invalid(
            f"{seconds} seconds of toleration",
            f"{_POD}.tolerations[0].tolerationSeconds",
            {f"{_POD}.tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": seconds}]},
        )
        for seconds in (-1, 31_536_001)
    ),
)

_TEXTS = (
    *_each("metadata.name", "Blocks", "a.b", "-a", "a" * 49),
    Invalid("no repository", "spec.source.repoID", {"spec.source": {"repoID": "a/b/c"}}),
    Invalid("a repository's long name", "spec.source.repoID", {"spec.source": {"repoID": "a" * 193}}),
    *_each("spec.source.revision", "-main", "a b", "a" * 256),
    *_each("spec.source.path", "", "a" * 4097),
    *_each("spec.source.episodes", "", "1,,2", "a", "1" * 16_385),
    *_each("spec.source.episodes", "5-1", guard=Guard.OPERATOR),
    *_each("spec.source.volume.claimName", "", "Datasets", "a" * 254),
    *_each("spec.source.volume.subPath", "/a", "..", "a/../b", "", "a" * 1025),
    *_each("spec.output.volume.subPath", "../a"),
    *_each("spec.staging.volume.subPath", "..", "staging/../.."),
    *_each("spec.source.tokenSecretRef", {"name": "a", "key": "b c"}, {"name": "A", "key": "b"}, "hf_x"),
    Invalid("a staging scheme that is none", "spec.staging.uri", {"spec.staging": {"uri": "ftp://a/b"}}),
    Invalid("a bucket without name", "spec.staging.uri", {"spec.staging": {"uri": "s3:///b"}}),
    *_each("spec.model.id", "", "a b", "a" * 513),
    *_each("spec.model.revision", "a b"),
    *_each("spec.model.reasoningEffort", "HIGH", "a" * 33),
    Invalid(
        "an endpoint without scheme", f"{_SERVING}.endpoints[0]", {f"{_SERVING}.endpoints": ["demo:8000"]}
    ),
    Invalid(
        "an endpoint with a password",
        f"{_SERVING}.endpoints[0]",
        {f"{_SERVING}.endpoints": ["http://me:quietly@demo/v1"]},  # pragma: allowlist secret
    ),
    Invalid(
        "an endpoint's port", f"{_SERVING}.endpoints[0]", {f"{_SERVING}.endpoints": ["http://a:65536/v1"]}
    ),
    Invalid("65 endpoints", f"{_SERVING}.endpoints", {f"{_SERVING}.endpoints": ["http://a/v1"] * 65}),
    *_each(f"{_SERVING}.image", "", "a b", "a" * 513),
    *_each(f"{_SERVING}.args", ["a"] * 129, "--a"),
    Invalid("an argument of 1025 characters", f"{_SERVING}.args[0]", {f"{_SERVING}.args": ["a" * 1025]}),
    *_each(f"{_SERVING}.gpuResource", "nvidia com/gpu", "a/b/c"),
    *_each(f"{_SERVING}.sharedMemory", "16 GB", "-1Gi", -1, 1.5),
    Invalid(
        "a limit that is no quantity",
        "spec.workers.resources.limits",
        {"spec.workers.resources.limits": {"cpu": "4x"}},
    ),
    Invalid(
        "a request that is no number",
        "spec.workers.resources.requests",
        {"spec.workers.resources.requests": {"cpu": True}},
    ),
    Invalid(
        "a resource that is none",
        "spec.workers.resources.limits",
        {"spec.workers.resources.limits": {"c u": 1}},
    ),
    *_each("spec.model.chatTemplateArgs", {str(number): 1 for number in range(65)}),
    *_each(f"{_VQA}.questionTypes", [], ["bbox", "bbox"], ["bbox"] * 6),
    *_each("spec.outputLanguage", "", " a", "a" * 65),
    *_each("spec.prompts", {"VQA": "a"}, {"a" * 65: "a"}, {f"a{number}": "a" for number in range(65)}),
    *_each("spec.prompts.vqa_bbox", "", "a" * 16_385),
    *_each("spec.frames.defaultCamera", "", "a" * 257),
    *_each("spec.retryToken", "a" * 65),
    *_each("spec.queueName", "", "GPU"),
    *_each(f"{_POD}.labels", {"a": "b c"}, {"a b": "c"}, {f"a{number}": "a" for number in range(33)}),
    *_each(f"{_POD}.annotations", {"a b": "c"}),
    *_each(f"{_POD}.nodeSelector", {"a": True}, {"a": "-"}),
    *_each(f"{_POD}.affinity", {str(number): {} for number in range(9)}),
    *_each(f"{_POD}.tolerations", [{"key": "a"}] * 33),
    *_each(f"{_POD}.imagePullSecrets", [{"name": "a"}] * 17),
    *_each(f"{_POD}.priorityClassName", "High"),
    *_each(f"{_POD}.runtimeClassName", "Kata"),
    *_each(f"{_POD}.serviceAccountName", "A"),
)

_FORMS = (
    *_each("spec.suspend", "true", 1),
    *_each("spec.output.overwrite", "false"),
    *_each(f"{_PLAN}.emitPlan", 1),
    *_each("spec.workers", 4),
    *_each("spec.modules", ["vqa"]),
    *_each("spec.sead", 7),
    *_each("spec.source.repoid", "lerobot/x"),
    *_each(f"{_VQA}.questionType", "bbox"),
)

INVALID: tuple[Invalid, ...] = (*_RULES, *_REQUIRED, *_WORDS, *_NUMBERS, *_TEXTS, *_FORMS)

LOCAL_ONLY: tuple[Invalid, ...] = tuple(
    Invalid(f"staging on a cluster in {uri}", "spec.staging.uri", {"spec.staging": {"uri": uri}})
    for uri in ("file:///tmp/staging", "file:////", "file:///volumes/datasets/../x")
)
"""What a cluster refuses and one machine takes."""
