"""``annotationrun run``: from a manifest to an annotated dataset, on this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_api.manifest import load_manifest
from annotationrun_worker.commands.output import episode_progress, print_run
from annotationrun_worker.run.local import LocalRun, run_local
from annotationrun_worker.run.places import Overrides, named_claims, resolve_places
from annotationrun_worker.support import check_supported


def run(
    manifest: Annotated[Path, typer.Option("-f", "--file", help="The AnnotationRun manifest (YAML).")],
    endpoint: Annotated[
        str | None,
        typer.Option(help="Base URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."),
    ] = None,
    volume: Annotated[
        list[str] | None, typer.Option(help="CLAIM=FOLDER: the folder that a volume of the manifest is here.")
    ] = None,
    staging: Annotated[
        Path | None, typer.Option(help="Folder for staged answers and results; default: beside the output.")
    ] = None,
) -> None:
    """Annotate the manifest's dataset and write the annotated one.

    What is answered is staged at once: a second run asks only for what is missing, and the same manifest
    over the same dataset asks nothing and writes nothing.
    """
    annotation_run = load_manifest(manifest)
    check_supported(annotation_run, endpoint_given=endpoint is not None)
    volumes = parse_volumes(volume or [], named_claims(annotation_run.spec))
    overrides = Overrides(endpoint=endpoint, staging=staging, volumes=volumes)
    places = resolve_places(annotation_run.spec, overrides)
    console = Console()
    with episode_progress(console) as progress:
        report = run_local(LocalRun(annotation_run.spec, places), progress)
    print_run(console, report)


def parse_volumes(given: list[str], claims: list[str]) -> dict[str, Path]:
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
