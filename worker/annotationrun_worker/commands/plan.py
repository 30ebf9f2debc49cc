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
    ResultOption,
    RevisionOption,
    RunOptions,
    StagingOption,
    VolumeOption,
)
from annotationrun_worker.commands.output import tell_result, warn
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
    cache: CacheOption = None,
) -> None:
    """Tell what a run would do, before anything is spent.

    That is episodes, requests, images and tokens, estimated as if nothing were staged.

    Finds whatever would stop the run before its first question: a broken dataset, an output that can't be
    written. Nothing is asked or decoded; the plan is staged.
    """
    options = RunOptions(manifest, None, tuple(volume or ()), staging, limit, revision=revision, cache=cache)
    in_pod = result is not None  # where the step has no token to publish with
    report = plan_run(options.load(asks=False, publishes=not in_pod, in_pod=in_pod))
    warn(report.warnings)
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
        "episodes": len(report.plan.episodes),
        "frames": _frames(report),
        "modules": {name: asdict(estimate) for name, estimate in report.estimates.items()},
        "total": asdict(_total(report)),
        "warnings": list(report.warnings),
    }


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
    for line in (f"source: {places.source}", f"plan: {report.digest}", f"staging: {places.staging}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
