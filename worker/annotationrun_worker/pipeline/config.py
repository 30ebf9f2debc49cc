"""A manifest on this machine: where its parts lie, and what of it is carried out here.

Where the parts of a manifest lie on this machine: folders for paths and volumes, one endpoint.

The API key of the model servers: from the environment, and nowhere else.

Which settings of a manifest this version carries out on one machine; the others are errors, never ignored.

Every field of the spec is in exactly one of the groups below, by its path; a path stands for all under it.
To lift a limit, delete its line in `_LIMITS` and name the field in `SUPPORTED`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from annotationrun_api.errors import UnsupportedError
from annotationrun_api.spec import AnnotationRun, RunSpec
from annotationrun_api.spec_effects import paths_with
from annotationrun_api.spec_fields import type_at, walk_fields
from annotationrun_api.spec_types import EffectOnly, Endpoint, SpecModel, StoreUri, VolumeClaim
from annotationrun_api.step_results import API_KEY_VARIABLE
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.server import NO_API_KEY

_ENDPOINT: TypeAdapter[str] = TypeAdapter(Endpoint)
_STORE_URI: TypeAdapter[str] = TypeAdapter(StoreUri)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says beside the manifest."""

    endpoint: str | None = None
    staging: str | None = None
    """A folder, or the URI of a folder or object store."""
    volumes: Mapping[str, Path] | None = None
    """Folder by claim name."""
    revision: str | None = None
    """Of a source on the Hub, in the place of the manifest's."""
    is_trial: bool = False
    """The output is a folder of its own, beside the manifest's or, of one on the Hub, in the current one."""


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A dataset repository on the Hub."""

    repo_id: str
    revision: str
    """Of a source a branch, tag or commit; of an output the branch to push to."""

    def __str__(self) -> str:
        return f"{self.repo_id} at {self.revision}"


@dataclass(frozen=True, slots=True)
class Places:
    """The manifest's places; folders of this machine are absolute."""

    source: Path | HubPlace
    output: Path | HubPlace
    staging: Path | str
    """A folder, or the URI of an object store."""
    endpoints: tuple[str, ...]
    """Base URLs of servers with the same model."""


def resolve_places(spec: RunSpec, overrides: Overrides, *, asks: bool = True) -> Places:
    """Map the places of ``spec`` to this machine.

    Relative paths count from the current directory. Without a word on staging it is a folder beside the
    output, in the current directory if that is on the Hub. Endpoints are looked for only if the command
    ``asks``.

    Raises:
        ConfigurationError: a volume is not mapped, or a path leads out of it; two of the folders overlap, a
            path begins with ``~``, or there is no endpoint, or it is no URL.
    """
    volumes = overrides.volumes or {}
    source, output = _source(spec, overrides, volumes), _output(spec, volumes)
    if _overlap(source, output) and not (source == output and spec.output.overwrite):
        raise ConfigurationError(
            f"spec.output.path {str(output)!r} and spec.source.path {str(source)!r} overlap; "
            "name an output folder outside the source, or the source itself with spec.output.overwrite: true"
        )
    staging = _staging(spec, overrides, output)
    for what, folder in (("source", source), ("output", output)):
        if _overlap(staging, folder):
            raise ConfigurationError(
                f"the staging folder {str(staging)!r} and the {what} {str(folder)!r} overlap; choose a "
                "folder beside them, with --staging or spec.staging (subPath names a folder in a volume)"
            )
    endpoints = _endpoints(spec, overrides.endpoint) if asks else ()
    return Places(source, _trial(output) if overrides.is_trial else output, staging, endpoints)


def _trial(output: Path | HubPlace) -> Path:
    if isinstance(output, HubPlace):
        return Path(f"{output.repo_id.rpartition('/')[2]}.trial").resolve()
    return output.with_name(f"{output.name}.trial")


def named_claims(spec: RunSpec) -> list[str]:
    """The volume claims that the manifest names, in order."""
    volumes = (spec.source.volume, spec.output.volume, spec.staging.volume, spec.model.serving.cache)
    return list(dict.fromkeys(volume.claim_name for volume in volumes if volume is not None))


def _source(spec: RunSpec, overrides: Overrides, volumes: Mapping[str, Path]) -> Path | HubPlace:
    source = spec.source
    if source.repo_id is not None:
        return HubPlace(source.repo_id, overrides.revision or source.revision)
    if overrides.revision is not None:
        raise ConfigurationError("--revision names a commit of spec.source.repoID, which the manifest lacks")
    return _folder(source.path, source.volume, volumes, "spec.source")


def _output(spec: RunSpec, volumes: Mapping[str, Path]) -> Path | HubPlace:
    output = spec.output
    if output.repo_id is not None:
        return HubPlace(output.repo_id, output.branch)
    return _folder(output.path, output.volume, volumes, "spec.output")


def _overlap(one: object, other: object) -> bool:
    """Whether both are folders, and one is the other or in it."""
    if not isinstance(one, Path) or not isinstance(other, Path):
        return False
    return one == other or one in other.parents or other in one.parents


def _here(path: Path, where: str) -> Path:
    """The absolute path of a folder of this machine."""
    if path.parts and path.parts[0].startswith("~"):
        raise ConfigurationError(
            f"{where} is {str(path)!r}; '~' means a home folder to a shell alone: write the full path "
            f"({f'./{path}'!r} for a folder of that name)"
        )
    return path.resolve()


def _folder(path: str | None, volume: VolumeClaim | None, volumes: Mapping[str, Path], where: str) -> Path:
    if volume is None:
        return _here(Path(path or "."), f"{where}.path")
    if volume.claim_name not in volumes:
        raise ConfigurationError(
            f"{where}.volume names the claim {volume.claim_name!r}; say which folder it is here: "
            f"--volume {volume.claim_name}=FOLDER"
        )
    inside = Path((volume.sub_path or "").lstrip("/"), (path or "").lstrip("/"))
    if ".." in inside.parts:
        raise ConfigurationError(
            f"{where} is {str(inside)!r} in the volume {volume.claim_name!r}; expected a path inside it: "
            "write it without '..', as it is from the volume's root"
        )
    return volumes[volume.claim_name].joinpath(inside).resolve()


def _staging(spec: RunSpec, overrides: Overrides, output: Path | HubPlace) -> Path | str:
    if overrides.staging is not None and "://" not in overrides.staging:
        return _here(Path(overrides.staging), "--staging")
    if overrides.staging is not None:
        return _store(_checked_store(overrides.staging))
    if spec.staging.uri is not None:
        return _store(spec.staging.uri)
    if spec.staging.volume is not None:
        return _folder(None, spec.staging.volume, overrides.volumes or {}, "spec.staging")
    if isinstance(output, HubPlace):
        return Path(f"{output.repo_id.rpartition('/')[2]}.staging").resolve()
    return output.with_name(f"{output.name}.staging")


def _endpoints(spec: RunSpec, given: str | None) -> tuple[str, ...]:
    if given is not None:
        return (_checked_endpoint(given),)
    if spec.model.serving.endpoints:
        return spec.model.serving.endpoints
    raise ConfigurationError(
        "no model server: spec.model.serving.mode is Sidecar, which needs a cluster; give the address of a "
        "running server with --endpoint URL, or set mode External and its endpoints"
    )


def _store(uri: str) -> Path | str:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)).resolve() if parts.scheme == "file" else uri


def _checked_store(uri: str) -> str:
    try:
        return _STORE_URI.validate_python(uri)
    except ValidationError as error:
        raise ConfigurationError(
            f"--staging is {uri!r}, expected a folder, or a URI: file:///folder, s3://bucket/prefix, "
            "gs://bucket/prefix or az://container/prefix"
        ) from error


def _checked_endpoint(url: str) -> str:
    try:
        return _ENDPOINT.validate_python(url)
    except ValidationError as error:
        shown = "(not shown, it may hold a password)" if "@" in url else repr(re.split(r"[?#]", url)[0])
        raise ConfigurationError(
            f"--endpoint is {shown}, expected a base URL such as http://127.0.0.1:8000/v1: http or https, a "
            "host, a port from 1 to 65535 if any, no user, password or query"
        ) from error


def read_api_key(spec: RunSpec, environment: Mapping[str, str]) -> str:
    """The key in ``ANNOTATIONRUN_API_KEY``, without the space around it that files end with.

    Returns:
        ``NO_API_KEY`` where none is set.

    Raises:
        ConfigurationError: the manifest names a key and none is set, or it can't stand in an HTTP header.
    """
    key = environment.get(API_KEY_VARIABLE, "").strip()
    if not key and spec.model.serving.api_key_secret_ref is not None:
        raise ConfigurationError(
            "spec.model.serving.apiKeySecretRef names a key, and a Secret can't be read without a cluster; "
            f"put the key into the environment variable {API_KEY_VARIABLE}, or leave the field out"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"the environment variable {API_KEY_VARIABLE} holds characters that no API key has (its value is "
            "not shown); expected printable ASCII"
        )
    return key or NO_API_KEY


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
        "spec.failurePolicy.maxUnansweredPercent",
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
