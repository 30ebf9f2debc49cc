"""``annotationrun plan``: what a run would do, before anything is spent."""

import json
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
    RevisionOption,
    RunOptions,
    StagingOption,
    VolumeOption,
)
from annotationrun_worker.commands.output import tell_result
from annotationrun_worker.run.estimate import Estimate
from annotationrun_worker.run.local import PlanReport, plan_run
from annotationrun_worker.run.step_results import plan_result


def plan(
    manifest: Manifest,
    volume: VolumeOption = None,
    staging: StagingOption = None,
    limit: LimitOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    result: ResultOption = None,
    revision: RevisionOption = None,
    model_revision: ModelRevisionOption = None,
    require_model_commit: Annotated[
        bool,
        typer.Option(
            "--require-model-commit",
            help="Fail where the Hub does not tell which commit spec.model.revision is; without, that is a "
            "warning.",
        ),
    ] = False,
    cache: CacheOption = None,
) -> None:
    """Tell what a run would do, before anything is spent.

    That is episodes, requests, images and tokens, estimated as if nothing were staged.

    Finds whatever would stop the run before its first question: a broken dataset, an output that can't be
    written. Nothing is asked or decoded; the plan is staged.
    """
    options = RunOptions(
        manifest, None, tuple(volume or ()), staging, limit, revision=revision, model_revision=model_revision,
        requires_model_commit=require_model_commit, cache=cache,
    )  # fmt: skip
    report = plan_run(options.load(asks=False))
    for warning in report.warnings:
        typer.echo(f"annotationrun: warning: {warning}", err=True)
    tell_result(plan_result(report), result)
    if as_json:
        typer.echo(json.dumps(_value(report), indent=2))
        return
    _print(Console(), report)


def _total(report: PlanReport) -> Estimate:
    return sum(report.estimates.values(), Estimate(0, 0, 0, 0))


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
        "total": asdict(_total(report)),
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
    for name, estimate in (*report.estimates.items(), ("in all", _total(report))):
        counts = (estimate.requests, estimate.images, estimate.prompt_tokens, estimate.answer_tokens)
        table.add_row(name, *(f"{count:,}" for count in counts))
    console.print(table)
    places = report.run.places
    model = _model(report)
    commit = f", commit {model['commit']}" if model["commit"] else ""
    console.print(
        f"model: {model['id']} at {model['revision']}{commit}", markup=False, highlight=False, soft_wrap=True
    )
    for line in (f"source: {places.source}", f"plan: {report.digest}", f"staging: {places.staging}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
