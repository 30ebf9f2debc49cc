"""Which settings of a manifest this version carries out on one machine; the others are errors, never ignored.

Every field of the spec is in exactly one of the groups below, by its path; a path stands for all under it.
To lift a limit, delete its line in `_LIMITS` and name the field in `SUPPORTED`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from annotationrun_api.errors import UnsupportedError
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.spec_effects import paths_with
from annotationrun_api.spec_fields import type_at, walk_fields
from annotationrun_api.spec_types import EffectOnly, SpecModel

SUPPORTED = frozenset(
    {
        "spec.source.repoID",
        "spec.source.revision",
        "spec.source.tokenSecretRef",
        "spec.source.cacheBytes",
        "spec.source.path",
        "spec.source.volume",
        "spec.source.episodes",
        "spec.output.repoID",
        "spec.output.branch",
        "spec.output.private",
        "spec.output.pullRequest",
        "spec.output.tokenSecretRef",
        "spec.output.path",
        "spec.output.volume",
        "spec.output.overwrite",
        "spec.output.existingRows",
        "spec.model.id",
        "spec.model.revision",
        "spec.model.serving.endpoints",
        "spec.model.serving.apiKeySecretRef",
        "spec.model.contextTokens",
        "spec.model.maxOutputTokens",
        "spec.model.temperature",
        "spec.model.requestTimeoutSeconds",
        "spec.model.structuredOutputs",
        "spec.model.coordinateScale",
        "spec.model.chatTemplateArgs",
        "spec.model.reasoningEffort",
        "spec.modules.plan.input",
        "spec.modules.plan.maxVideoFrames",
        "spec.modules.plan.framesPerSecond",
        "spec.modules.plan.maxFramesPerPrompt",
        "spec.modules.plan.sheetColumns",
        "spec.modules.plan.framesPerSheet",
        "spec.modules.plan.tileWidth",
        "spec.modules.plan.sheetJpegQuality",
        "spec.modules.plan.describeFirst",
        "spec.modules.plan.minSubtaskSeconds",
        "spec.modules.plan.maxSteps",
        "spec.modules.plan.seededRelabel",
        "spec.modules.plan.relabelFrames",
        "spec.modules.plan.emitPlan",
        "spec.modules.plan.emitMemory",
        "spec.modules.plan.deriveTask",
        "spec.modules.plan.deriveTaskMinWords",
        "spec.modules.plan.taskRephrasings",
        "spec.modules.plan.taskAxes",
        "spec.modules.interjections",
        "spec.modules.vqa.emissionHz",
        "spec.modules.vqa.framesPerTick",
        "spec.modules.vqa.questionTypes",
        "spec.modules.vqa.cameras",
        "spec.prompts",
        "spec.seed",
        "spec.outputLanguage",
        "spec.frames.backend",
        "spec.frames.defaultCamera",
        "spec.frames.cacheBytes",
        "spec.frames.toleranceSeconds",
        "spec.workers.episodeConcurrency",
        "spec.workers.requestConcurrency",
        "spec.workers.episodeAttempts",
        "spec.staging.uri",
        "spec.staging.volume",
        "spec.staging.credentialsSecretRef",
        "spec.staging.integritySecretRef",
        "spec.failurePolicy.maxFailedEpisodes",
        "spec.failurePolicy.maxHolesPercent",
        "spec.retryToken",
    }
)
"""Fields that are carried out, whatever their value."""

CLUSTER_ONLY = frozenset(paths_with(EffectOnly.CLUSTER, EffectOnly.SIDECAR))
"""Fields that say something about pods and Jobs, and so nothing about one machine.

The same manifest serves a cluster and one machine, so they are accepted here and change nothing, which a
warning says (``settings_without_effect``): who runs the command stops it instead of setting a deadline.
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """A field of which this version carries out some values only."""

    path: str
    supports: Callable[[object], bool]
    remedy: str
    """What to do, as in ``leave it out``."""


def _is(*values: object) -> Callable[[object], bool]:
    return lambda value: value in values


_SHOWN_CHARACTERS = 80  # of a value: enough to find it by
_LIMITS = (Limit("spec.suspend", _is(False), "set it to false, or leave it out"),)
_NO_SERVER = Limit(
    "spec.model.serving.mode",
    _is("External"),
    "give --endpoint with the base URL of a running server, or set mode: External and endpoints",
)

LIMITED = frozenset({*(limit.path for limit in _LIMITS), _NO_SERVER.path})
"""Fields of which some values are carried out."""


def unsupported_settings(run: AnnotationRun, *, endpoint_given: bool) -> list[str]:
    """The settings that this version does not carry out, a line each, in the order of the spec.

    `endpoint_given` says that the command line names a model server, which takes the place of a sidecar.
    """
    limits = _LIMITS if endpoint_given else (*_LIMITS, _NO_SERVER)
    order = [path for path, _ in walk_fields(RunSpec, "spec")]
    lines = []
    for limit in sorted(limits, key=lambda limit: order.index(limit.path)):
        is_there, value = _value_at(run, limit.path)
        if is_there and not limit.supports(value):
            shown = f"{limit.path}={_as_text(value)}{_default_mark(limit.path, value)}"
            lines.append(f"{shown} is not supported yet; {limit.remedy}")
    return lines


def check_supported(run: AnnotationRun, *, endpoint_given: bool) -> None:
    """Refuse a run with settings that this version does not carry out.

    Raises:
        UnsupportedError: lists all of them.
    """
    lines = unsupported_settings(run, endpoint_given=endpoint_given)
    if lines:
        count = "1 setting" if len(lines) == 1 else f"{len(lines)} settings"
        listed = "\n".join(f"  {line}" for line in lines)
        raise UnsupportedError(f"manifest {run.metadata.name!r} has {count} not supported yet\n{listed}")


def _value_at(run: AnnotationRun, path: str) -> tuple[bool, object]:
    """Whether the mapping of a field is there (a module may be off), and the field's value."""
    value: object = run
    for name in path.split("."):
        if not isinstance(value, SpecModel):
            return False, None
        value = value.by_yaml_name()[name]
    return True, value


def _as_text(value: object) -> str:
    if isinstance(value, SpecModel):
        return "{...}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _default_mark(path: str, value: object) -> str:
    field_type = type_at(AnnotationRun, path.split("."))
    if field_type is None or field_type.field is None:
        return ""
    default = field_type.field.get_default(call_default_factory=True, validated_data={})
    return " (the default)" if default == value else ""
