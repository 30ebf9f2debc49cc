"""``annotationrun prefetch``: the model's files, fetched once for all servers of a run."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from annotationrun_api.manifest import load_manifest
from annotationrun_api.spec_model import is_hub_model
from annotationrun_api.step_results import HUB_TOKEN_VARIABLE, PrefetchResult
from annotationrun_worker.commands.options import Manifest, ModelRevisionOption, ResultOption
from annotationrun_worker.commands.output import tell_result
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.hub.model_cache import KeptModel, WantedModel, fetch_model, find_model


def prefetch(
    manifest: Manifest,
    folder: Annotated[
        Path,
        typer.Option(
            help="HF_HOME of the model servers, where the files go.",
            exists=True,
            file_okay=False,
            writable=True,
        ),
    ],
    result: ResultOption = None,
    model_revision: ModelRevisionOption = None,
) -> None:
    """Fetch the manifest's model from the Hub into a folder, if it is not there yet.

    A token that may read the model is taken from the environment variable HF_TOKEN.
    """
    model = load_manifest(manifest).spec.model
    if not is_hub_model(model.id):
        raise ConfigurationError(f"spec.model.id {model.id!r} is no repository on the Hub; nothing to fetch")
    wanted = WantedModel(model.id, model_revision or model.revision)
    kept = find_model(wanted, folder)
    if kept is None:
        began = time.monotonic()
        kept = fetch_model(wanted, folder, os.environ.get(HUB_TOKEN_VARIABLE, "").strip() or None)
        said = f"fetched {wanted} in {time.monotonic() - began:.0f} s"
    else:
        said = f"{wanted} is there already"
    typer.echo(f"{said}: commit {kept.commit}, {len(kept.files)} files, {kept.size_bytes:,} bytes")
    tell_result(_told(kept), result)


def _told(kept: KeptModel) -> PrefetchResult:
    return PrefetchResult(
        model=kept.model, commit=kept.commit, files=len(kept.files), size_bytes=kept.size_bytes
    )
