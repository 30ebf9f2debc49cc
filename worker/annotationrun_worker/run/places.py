"""Where the parts of a manifest lie on this machine: folders for paths and volumes, one endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_types import VolumeClaim
from annotationrun_worker.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says beside the manifest."""

    endpoint: str | None = None
    staging: Path | None = None
    volumes: Mapping[str, Path] | None = None
    """Folder by claim name."""


@dataclass(frozen=True, slots=True)
class Places:
    """The manifest's places on this machine, absolute."""

    source: Path
    output: Path
    staging: Path
    endpoints: tuple[str, ...]
    """Base URLs of servers with the same model."""


def resolve_places(spec: RunSpec, overrides: Overrides) -> Places:
    """Map the places of a supported ``spec`` (source and output are folders) to this machine.

    Relative paths count from the current directory. Without a word on staging it is a folder beside the
    output.

    Raises:
        ConfigurationError: a volume is not mapped, output and source overlap, or there is no endpoint.
    """
    volumes = overrides.volumes or {}
    source = _folder(spec.source.path, spec.source.volume, volumes, "spec.source")
    output = _folder(spec.output.path, spec.output.volume, volumes, "spec.output")
    if source == output or source in output.parents or output in source.parents:
        raise ConfigurationError(
            f"spec.output.path {str(output)!r} and spec.source.path {str(source)!r} overlap; "
            "name an output folder outside the source"
        )
    return Places(
        source=source,
        output=output,
        staging=overrides.staging.absolute() if overrides.staging else _staging(spec, volumes, output),
        endpoints=_endpoints(spec, overrides.endpoint),
    )


def _folder(path: str | None, volume: VolumeClaim | None, volumes: Mapping[str, Path], where: str) -> Path:
    if volume is None:
        return Path(path or ".").resolve()
    if volume.claim_name not in volumes:
        raise ConfigurationError(
            f"{where}.volume names the claim {volume.claim_name!r}; say which folder it is here: "
            f"--volume {volume.claim_name}=FOLDER"
        )
    root = volumes[volume.claim_name].resolve()
    return root.joinpath(volume.sub_path or "", (path or "").lstrip("/")).resolve()


def _staging(spec: RunSpec, volumes: Mapping[str, Path], output: Path) -> Path:
    if spec.staging.uri is not None:
        return Path(unquote(urlsplit(spec.staging.uri).path)).resolve()
    if spec.staging.volume is not None:
        return _folder(None, spec.staging.volume, volumes, "spec.staging")
    return output.with_name(f"{output.name}.staging")


def _endpoints(spec: RunSpec, given: str | None) -> tuple[str, ...]:
    if given is not None:
        return (given,)
    if spec.model.serving.endpoints:
        return spec.model.serving.endpoints
    raise ConfigurationError(
        "no model server: spec.model.serving.mode is Sidecar, which needs a cluster; give the address of a "
        "running server with --endpoint URL, or set mode External and its endpoints"
    )
