"""``annotationrun annotate``: the worker's step alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_worker.commands.options import (
    AccountOption,
    CacheOption,
    EndpointOption,
    LimitOption,
    Manifest,
    ModelRevisionOption,
    ReportOption,
    RetryTokenOption,
    RevisionOption,
    RunOptions,
    StagingOption,
    VolumeOption,
)
from annotationrun_worker.commands.output import episode_progress, finish
from annotationrun_worker.pipeline.report import EpisodeSeen, encode_event
from annotationrun_worker.pipeline.steps import Listener, annotate_run
from annotationrun_worker.plain_text import plain_line
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.vlm.server import ServerFindings, Usage


def annotate(
    manifest: Manifest,
    endpoint: EndpointOption = None,
    volume: VolumeOption = None,
    staging: StagingOption = None,
    limit: LimitOption = None,
    retry_token: RetryTokenOption = None,
    plan: Annotated[
        str | None, typer.Option(help="Digest of the staged plan; without it the run is planned first.")
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Tell how it goes as one JSON object a line, for programs.")
    ] = False,
    report: ReportOption = None,
    start_timeout_seconds: Annotated[
        int,
        typer.Option(
            min=0,
            max=86_400,
            help="How long the model server may take until it is ready, first and when it went away; 0: not "
            "there is an error at once.",
        ),
    ] = 0,
    progress_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Answer here meanwhile GET /progress, how far all workers are (JSON), and GET /metrics, "
            "what this one does (Prometheus); 0: a free port.",
        ),
    ] = None,
    account: AccountOption = None,
    gpus: Annotated[
        int, typer.Option(min=0, max=1024, help="GPUs of the model server beside this worker, to count.")
    ] = 0,
    media_folder: Annotated[
        Path | None,
        typer.Option(
            help="Send pictures and clips as files in this folder, which the model server reads too "
            "(vLLM's --allowed-local-media-path)."
        ),
    ] = None,
    revision: RevisionOption = None,
    model_revision: ModelRevisionOption = None,
    cache: CacheOption = None,
) -> None:
    """Make the results that are missing; write nothing to the output.

    Leaves to other workers what they are at, and ends as soon as there is nothing left that it may take,
    though others may still be at work.
    """
    options = RunOptions(
        manifest, endpoint, tuple(volume or ()), staging, limit, retry_token, start_timeout_seconds,
        account=account, gpus=gpus, media_folder=media_folder, revision=revision,
        model_revision=model_revision, cache=cache,
    )  # fmt: skip
    local, digest = options.load(), None if plan is None else Digest(plan)
    if events:
        done = annotate_run(local, digest, Listener(_tell, _tell, _tell, _tell, _say), progress_port)
        finish(Console(stderr=True, quiet=True), done, report)
        return
    console = Console()
    with episode_progress(console) as progress:
        done = annotate_run(local, digest, Listener(progress, on_server=_say_server, say=_say), progress_port)
    finish(console, done, report)


def _say(text: str) -> None:
    typer.echo(plain_line(f"annotationrun: {text}"), err=True)


def _say_server(findings: ServerFindings) -> None:
    if findings.counts is None:  # at the end they are told with the rest
        _say(f"model server: {findings.line()}")


def _tell(event: EpisodeSeen | ServerFindings | FrameCounts | Mapping[str, Usage]) -> None:
    typer.echo(encode_event(event))
