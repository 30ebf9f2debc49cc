"""``annotationrun run``: from a manifest to an annotated dataset, on this machine."""

from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_worker.commands.options import (
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
from annotationrun_worker.commands.output import episode_progress, finish, warn
from annotationrun_worker.pipeline.config import HubPlace
from annotationrun_worker.pipeline.steps import run_local
from annotationrun_worker.pipeline.wiring import LocalRun
from annotationrun_worker.pipeline.workers import WorkerPool


def run(
    manifest: Manifest,
    endpoint: EndpointOption = None,
    volume: VolumeOption = None,
    staging: StagingOption = None,
    limit: LimitOption = None,
    retry_token: RetryTokenOption = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 1,
    report: ReportOption = None,
    revision: RevisionOption = None,
    model_revision: ModelRevisionOption = None,
    cache: CacheOption = None,
) -> None:
    """Annotate the manifest's dataset and write the annotated one.

    What is answered is staged at once: a second run asks only for what is missing, and the same manifest
    over the same dataset asks nothing and writes nothing. Any number of runs and workers can share a staging
    store: none does what another is at.
    """
    options = RunOptions(
        manifest, endpoint, tuple(volume or ()), staging, limit, retry_token, revision=revision,
        model_revision=model_revision, cache=cache,
    )  # fmt: skip
    local = options.load(publishes=True, in_pod=False)
    warn(local.warnings)
    console = Console()
    with episode_progress(console) as progress:
        done = run_local(local, progress, _pool(local, options, workers))
    finish(console, done, report)


def _pool(run: LocalRun, options: RunOptions, workers: int) -> WorkerPool | None:
    if workers == 1:
        return None
    options = replace(options, model_revision=run.model_revision.name)
    if isinstance(run.places.source, HubPlace):
        options = replace(options, revision=run.places.source.revision)
    allowed = run.spec.failure_policy.max_failed_episodes
    return WorkerPool(workers, ["annotate", *options.arguments()], allowed)
