"""``annotationrun plan``: what a run would do, before anything is spent."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from annotationrun_worker.commands.options import (
    CacheOption,
    LimitOption,
    Manifest,
    ModelRevisionOption,
    ResultOption,
    RetryTokenOption,
    RevisionOption,
    RunOptions,
    StagingOption,
    VolumeOption,
)
from annotationrun_worker.commands.output import print_line, tell_result, warn
from annotationrun_worker.language.rows import ResultName
from annotationrun_worker.pipeline.estimate import Estimate
from annotationrun_worker.pipeline.steps import PlanReport, plan_result, plan_run


def plan(
    manifest: Manifest,
    volume: VolumeOption = None,
    staging: StagingOption = None,
    limit: LimitOption = None,
    retry_token: RetryTokenOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    result: ResultOption = None,
    revision: RevisionOption = None,
    model_revision: ModelRevisionOption = None,
    require_model_commit: Annotated[
        bool,
        typer.Option(
            "--require-model-commit",
            help="Fail if the Hub does not say which commit spec.model.revision names; without this option "
            "that is a warning.",
        ),
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Tell what a run would do, before anything is spent.

    That is episodes, requests, images and tokens, estimated as if nothing were staged; and how many episodes
    are pending: they lack a result, or have questions to be asked again. --json lists them.

    Finds what would stop the run before its first question, model servers aside: a broken dataset, an output
    that can't be written, a token that may not push. Nothing is asked or decoded; the plan is staged.
    """
    options = RunOptions(
        manifest, None, tuple(volume or ()), staging, limit, retry_token, revision=revision,
        model_revision=model_revision, requires_model_commit=require_model_commit, cache=cache,
    )  # fmt: skip
    in_pod = result is not None  # where the step has no token to publish with
    report = plan_run(options.load(asks=False, publishes=not in_pod, in_pod=in_pod))
    warn(report.warnings)
    tell_result(plan_result(report), result)
    if as_json:
        typer.echo(json.dumps(_value(report), indent=2))
        return
    _print(Console(), report)


def _total(estimates: Mapping[ResultName, Estimate]) -> Estimate:
    return sum(estimates.values(), Estimate(0, 0, 0, 0))


def _frames(report: PlanReport) -> int:
    return sum(length for _, length in report.plan.episodes)


def _value(report: PlanReport) -> dict[str, object]:
    return {
        "plan": report.digest,
        "source": str(report.run.places.source),
        "model": _model(report),
        "episodes": len(report.plan.episodes),
        "frames": _frames(report),
        "modules": {name: asdict(estimate) for name, estimate in report.estimates.items()},
        "total": asdict(_total(report.estimates)),
        "pending": len(report.missing),
        "pendingEpisodes": [int(index) for index in report.missing],
        "pendingTotal": asdict(_total(report.open_estimates)),
        "warnings": list(report.warnings),
    }


def _model(report: PlanReport) -> dict[str, str]:
    model = report.run.spec.model
    return {"id": model.id, "revision": model.revision, "commit": report.run.model_revision.commit}


def _print(console: Console, report: PlanReport) -> None:
    console.print(
        f"{len(report.plan.episodes)} episodes, {_frames(report)} frames; if nothing were staged, about:",
        highlight=False,
    )
    table = Table("module", box=None)
    for title in ("requests", "images", "prompt tokens", "answer tokens"):
        table.add_column(title, justify="right")
    for name, estimate in (*report.estimates.items(), ("in all", _total(report.estimates))):
        counts = (estimate.requests, estimate.images, estimate.prompt_tokens, estimate.answer_tokens)
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)
    requests = _total(report.open_estimates).requests
    pending = f"pending: {len(report.missing)} episodes" + (
        f", about {requests:,} requests" if requests else ""
    )
    print_line(console, pending)
    places = report.run.places
    model = _model(report)
    commit = f", commit {model['commit']}" if model["commit"] else ""
    print_line(console, f"model: {model['id']} at {model['revision']}{commit}")
    for line in (f"source: {places.source}", f"plan: {report.digest}", f"staging: {places.staging}"):
        print_line(console, line)
