"""What the commands print."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from annotationrun_worker.run.annotate import Progress as OnProgress
from annotationrun_worker.run.local import RunReport
from annotationrun_worker.run.report import AnnotateReport, describe_failure
from annotationrun_worker.validate.problem import Problem
from annotationrun_worker.vlm.client import Usage


@contextmanager
def episode_progress(console: Console) -> Iterator[OnProgress]:
    """A bar with the time left on a terminal; a line an episode elsewhere, so that logs stay readable."""
    if not console.is_terminal:
        yield lambda done, total: console.print(f"{done} of {total} episodes")
        return
    columns = (
        TextColumn("episodes"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("episodes", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_run(console: Console, report: RunReport) -> None:
    """What a run did, what it could not answer, and where the output lies."""
    merge, frames = report.merge, report.frames
    failed = len(report.annotated.failed_episodes)
    failed_part = f" ({failed} failed, their rows stay as they were)" if failed else ""
    for failure in report.annotated.failures:
        console.print(f"failed: {describe_failure(failure)}", markup=False, highlight=False, soft_wrap=True)
    for episode, hole in report.annotated.holes:
        console.print(
            f"hole: episode {episode}, frame {hole.frame}, {hole.camera or 'no camera'}, {hole.kind}: "
            f"{hole.cause}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    for note in _notes(report.annotated):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    print_problems(console, list(merge.surviving_problems))
    lines = [
        f"{report.episodes} episodes{failed_part}, {report.annotated.results_made} results made, "
        f"{report.annotated.results_reused} reused, {len(report.annotated.holes)} holes",
        *_usage_lines(report),
        f"{frames.decoded} frames decoded, {frames.from_cache} from the cache"
        + (f", {frames.fallback_files} files by the ffmpeg program" if frames.fallback_files else ""),
        f"{merge.files_written} files and {merge.bytes_written} bytes written, "
        f"{merge.files_linked} files linked" + (" (the output is up to date)" if merge.unchanged else ""),
        f"staging: {report.places.staging}",
        f"output: {report.places.output}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _notes(annotated: AnnotateReport) -> Iterator[str]:
    yield from (f"warning: {warning}" for warning in annotated.warnings)
    if annotated.speech_only:
        episodes = ", ".join(map(str, sorted(annotated.speech_only)))
        yield (
            "note: without subtasks the module interjections made the first speech alone (episodes "
            f"{episodes}); enable the module plan, or run on a dataset that has subtasks"
        )


def print_problems(console: Console, problems: list[Problem]) -> None:
    """One line a problem."""
    for problem in problems:
        console.print(str(problem), markup=False, highlight=False, soft_wrap=True)


def _usage_lines(report: RunReport) -> list[str]:
    """One line for all requests, and one a kind of question where there were any."""

    def line(usages: Sequence[Usage]) -> str:
        requests, retries = sum(u.requests for u in usages), sum(u.retries for u in usages)
        asked, answered = sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)
        return f"{requests} requests, {retries} retries, {asked} prompt and {answered} answer tokens"

    return [
        line(list(report.usage.values())),
        *(f"  {kind}: {line([usage])}" for kind, usage in sorted(report.usage.items())),
    ]
