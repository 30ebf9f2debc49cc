"""What the commands print."""

from collections.abc import Iterator
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
from annotationrun_worker.validate.problem import Problem


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
    usage, merge = report.usage, report.merge
    for episode, hole in report.annotated.holes:
        console.print(
            f"hole: episode {episode}, frame {hole.frame}, {hole.camera}, {hole.kind}: {hole.cause}",
            markup=False,
        )
    print_problems(console, list(merge.surviving_problems))
    lines = [
        f"{report.episodes} episodes, {report.annotated.results_made} results made, "
        f"{report.annotated.results_reused} reused, {len(report.annotated.holes)} holes",
        f"{usage.requests} requests, {usage.prompt_tokens} prompt and "
        f"{usage.completion_tokens} answer tokens",
        f"{merge.files_written} files and {merge.bytes_written} bytes written, "
        f"{merge.files_linked} files linked" + (" (the output is up to date)" if merge.unchanged else ""),
        f"staging: {report.places.staging}",
        f"output: {report.places.output}",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_problems(console: Console, problems: list[Problem]) -> None:
    """One line a problem."""
    for problem in problems:
        console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
