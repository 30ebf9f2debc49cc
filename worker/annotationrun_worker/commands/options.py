"""Options that several commands share, and the run that they name."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from annotationrun_api.manifest import load_manifest
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_effects import settings_without_effect
from annotationrun_worker.pipeline.config import (
    Overrides,
    check_supported,
    named_claims,
    read_api_key,
    resolve_places,
)
from annotationrun_worker.pipeline.hub_source import ModelRevision, find_model_revision, hub_access, pinned
from annotationrun_worker.pipeline.wiring import LocalRun
from annotationrun_worker.staging.seal import read_seal
from annotationrun_worker.staging.store import StagingStore, open_store
from annotationrun_worker.vlm.server import NO_API_KEY

Manifest = Annotated[Path, typer.Option("-f", "--file", help="The AnnotationRun manifest (YAML).")]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", help="Base URL of an OpenAI-compatible server, as http://127.0.0.1:8000/v1."),
]
VolumeOption = Annotated[
    list[str] | None,
    typer.Option("--volume", help="CLAIM=FOLDER: the folder that a volume of the manifest is here."),
]
StagingOption = Annotated[
    str | None,
    typer.Option(
        "--staging",
        help="Folder or URI (s3://, gs://, az://) for answers and results; default: beside the output.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        help="A trial with the first N of the selected episodes: writes a folder named like the output with "
        ".trial at its end, never the output itself, and pushes nothing.",
    ),
]
RetryTokenOption = Annotated[
    str | None,
    typer.Option(
        "--retry-token",
        help="Try again the episodes that were given up and the questions that got no usable answer; "
        "overrides spec.retryToken. Use a new value each time.",
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Write what was done, what failed and what is missing here (JSON)."),
]
ResultOption = Annotated[
    Path | None,
    typer.Option(
        "--result",
        help="Write the outcome into this file, in place (JSON, 4 KiB at most): a pod's termination message.",
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Use this commit of a source on the Hub, such as the one planned; overrides "
        "spec.source.revision.",
    ),
]
ModelRevisionOption = Annotated[
    str | None,
    typer.Option(
        "--model-revision",
        help="Use this commit of the model, such as the one planned; overrides spec.model.revision. The Hub "
        "is not asked about it.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Folder for files of the Hub, shared by all runs of this machine; default: "
        "~/.cache/annotationrun/hub.",
    ),
]
AccountOption = Annotated[
    str | None,
    typer.Option(
        "--account",
        help="Name under which all workers of a run count requests and tokens, and 'merge' sums them; "
        "default: the plan's digest.",
    ),
]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says of a run."""

    manifest: Path
    endpoint: str | None = None
    volumes: tuple[str, ...] = ()
    staging: str | None = None
    limit: int | None = None
    retry_token: str | None = None
    start_timeout_seconds: int = 0
    media_folder: Path | None = None
    account: str | None = None
    gpus: int = 0
    revision: str | None = None
    model_revision: str | None = None
    requires_model_commit: bool = False
    cache: Path | None = None

    def arguments(self) -> list[str]:
        """The same as words of a command line."""
        words = ["--file", str(self.manifest)]
        for name, value in (
            ("--endpoint", self.endpoint),
            ("--staging", self.staging),
            ("--limit", self.limit),
            ("--retry-token", self.retry_token),
            ("--revision", self.revision),
            ("--model-revision", self.model_revision),
            ("--cache", self.cache),
            *(("--volume", volume) for volume in self.volumes),
        ):
            words += [] if value is None else [name, str(value)]
        return words

    def load(self, *, asks: bool = True, publishes: bool = False, in_pod: bool = True) -> LocalRun:
        """The run, its places found on this machine; source and model on the Hub are pinned to commits.

        Args:
            asks: the command needs a model server.
            publishes: the command writes the output.
            in_pod: the command may be a step in a pod, where settings for a cluster have had their effect;
                else those that the manifest has are among the run's warnings.

        Raises:
            ManifestError, UnsupportedError, ConfigurationError: manifest, places or keys are wrong.
            HubUnavailableError: the Hub does not answer.
            StorageError: what is staged of the model's revision can't be read.
            typer.BadParameter: an option is.
        """
        manifest = load_manifest(self.manifest)
        check_supported(manifest, endpoint_given=self.endpoint is not None or not asks)
        spec = manifest.spec
        if self.retry_token is not None:
            if len(self.retry_token) > _TOKEN_CHARACTERS:
                raise typer.BadParameter(
                    f"got {len(self.retry_token)} characters, expected up to {_TOKEN_CHARACTERS}",
                    param_hint="--retry-token",
                )
            spec = spec.model_copy(update={"retry_token": self.retry_token})
        if self.account is not None and not _ACCOUNT.fullmatch(self.account):
            raise typer.BadParameter(
                f"got {self.account!r}, expected up to 64 of a-z, 0-9 and '-'", param_hint="--account"
            )
        volumes = parse_volumes(self.volumes, named_claims(spec))
        is_trial = self.limit is not None
        overrides = Overrides(self.endpoint, self.staging, volumes, self.revision, is_trial)
        access = hub_access(spec, os.environ, self.cache, publishes=publishes and not is_trial)
        places = resolve_places(spec, overrides, asks=asks)
        seal = read_seal(os.environ, is_named=spec.staging.integrity_secret_ref is not None)
        return LocalRun(
            spec=spec,
            places=pinned(places, access),
            name=manifest.metadata.name,
            limit=self.limit,
            api_key=read_api_key(spec, os.environ) if asks else NO_API_KEY,
            seal=seal,
            start_timeout_seconds=self.start_timeout_seconds,
            media_folder=self.media_folder,
            account=self.account,
            gpus=self.gpus,
            hub=access,
            found_revision=self._model_revision(spec, open_store(places.staging, seal)),
            warnings=() if in_pod else _without_effect(spec),
        )

    def _model_revision(self, spec: RunSpec, store: StagingStore) -> ModelRevision:
        if self.model_revision:
            return ModelRevision(self.model_revision)
        return find_model_revision(spec, store, is_required=self.requires_model_commit)


def _without_effect(spec: RunSpec) -> tuple[str, ...]:
    said = settings_without_effect(spec, in_cluster=False)
    return (f"settings without effect here: {said}",) if said else ()


_TOKEN_CHARACTERS = 64  # as in the manifest
_ACCOUNT = re.compile(r"[a-z0-9-]{1,64}")  # a UID, or a digest: it names a folder of the staging store


def parse_volumes(given: tuple[str, ...], claims: list[str]) -> dict[str, Path]:
    """``claim=folder`` texts as a mapping; ``claims`` are those that the manifest names.

    Raises:
        typer.BadParameter: a text is not of that form, its folder is missing, or the manifest does not name
            its claim.
    """
    volumes = {}
    for text in given:
        claim, equals, folder = text.partition("=")
        if not (claim and equals and folder):
            raise typer.BadParameter(f"got {text!r}, expected CLAIM=FOLDER", param_hint="--volume")
        if claim not in claims:
            named = ", ".join(map(repr, claims)) or "none"
            raise typer.BadParameter(
                f"the manifest names no claim {claim!r}; those it names: {named}", param_hint="--volume"
            )
        if not Path(folder).is_dir():
            raise typer.BadParameter(f"{folder!r} is not a folder", param_hint="--volume")
        volumes[claim] = Path(folder)
    return volumes
