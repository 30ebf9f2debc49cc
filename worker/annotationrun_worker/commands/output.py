"""What the commands print."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from annotationrun_api.step_results import MergeOutcome, PlanResult, PrefetchResult, write_result
from annotationrun_worker.errors import StorageError
from annotationrun_worker.language.rules import Problem
from annotationrun_worker.output.merge import MergeResult
from annotationrun_worker.pipeline.annotate import Progress as OnProgress
from annotationrun_worker.pipeline.report import AnnotateReport, EpisodeSeen, describe_failure
from annotationrun_worker.pipeline.steps import RunReport
from annotationrun_worker.plain_text import plain_line


@contextmanager
def episode_progress(console: Console) -> Iterator[OnProgress]:
    """A bar with the time left on a terminal; a line an episode elsewhere, so that logs stay readable."""
    failed: dict[int, bool] = {}
    """Whether it failed, by episode, of those that are ended; another worker may yet make one that failed."""
    left: set[int] = set()
    if not console.is_terminal:

        def say(event: EpisodeSeen) -> None:
            if event.left and event.episode not in left:
                left.add(event.episode)
                console.print(f"episode {event.episode}: results are missing, or another worker's to make")
            elif not event.left and failed.get(event.episode) != event.failed:
                failed[event.episode] = event.failed
                console.print(_episodes_text(failed, event.total))

        yield say
        return
    columns = (
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("episodes", total=None, text="episodes")

        def draw(event: EpisodeSeen) -> None:
            if not event.left:
                failed[event.episode] = event.failed
            text = _episodes_text(failed, event.total)
            bar.update(task, completed=len(failed), total=event.total, text=text)

        yield draw


def _episodes_text(failed: Mapping[int, bool], total: int) -> str:
    """``3 of 4 episodes, 1 failed``; ``failed`` says of each ended episode whether it failed."""
    count = sum(failed.values())
    return f"{len(failed) - count} of {total} episodes" + (f", {count} failed" if count else "")


def warn(warnings: Iterable[str]) -> None:
    """Tell warnings on stderr, a line each."""
    for warning in warnings:
        typer.echo(plain_line(f"annotationrun: warning: {warning}"), err=True)


def finish(console: Console, report: RunReport, file: Path | None) -> None:
    """Print what a run did, write it into ``file``, and raise what is missing.

    Raises:
        IncompleteError: the run's fault.
        StorageError: ``file`` can't be written.
    """
    if file is not None:
        try:
            file.write_text(json.dumps(report.to_value(), indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"can't write the report to {str(file)!r}: {error}") from error
    if report.fault is not None:
        raise report.fault
    _print_run(console, report)


def tell_result(result: PlanResult | PrefetchResult | MergeOutcome, file: Path | None) -> None:
    """Write what the operator of a cluster is to know into ``file``, if there is one.

    The file is written in place, as a pod's termination message is a mount.

    Raises:
        StorageError: it can't be written.
    """
    if file is None:
        return
    try:
        file.write_text(write_result(result), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"can't write the result to {str(file)!r}: {error}") from error


def _print_run(console: Console, report: RunReport) -> None:
    """What a run did, what it could not answer, and where the output lies."""
    for line in _faults(report.annotated):
        print_line(console, line)
    for note in _notes(report.annotated):
        print_line(console, note)
    if report.merge is not None:
        print_problems(console, list(report.merge.surviving_problems))
    for line in (*_count_lines(report), *_merge_lines(report)):
        print_line(console, line)


def _faults(annotated: AnnotateReport) -> Iterator[str]:
    yield from (f"failed: {describe_failure(failure)}" for failure in annotated.failures)
    for episode, _, question in annotated.unanswered:
        yield (
            f"unanswered: episode {episode}, frame {question.frame}, {question.camera or 'no camera'}, "
            f"{question.kind}: {question.cause}"
        )


def _count_lines(report: RunReport) -> Iterator[str]:
    annotated, frames = report.annotated, report.frames
    failed = len(annotated.failed_episodes)
    by_module = ", ".join(f"{name} {count}" for name, count in sorted(annotated.unanswered_by_module.items()))
    failed_part = f", {failed} failed (rows stay as they were)" if failed else ""
    yield (
        f"{annotated.episodes_done} of {report.episodes} episodes{failed_part}, "
        f"{annotated.results_made} results made, "
        f"{annotated.results_reused} reused, {annotated.results_made_twice} made twice, "
        f"{len(annotated.unanswered)} unanswered questions{by_module and f' ({by_module})'}"
    )
    if annotated.worker_deaths:
        yield f"{annotated.worker_deaths} worker processes died, others went on in their place"
    if annotated.left:
        yield f"{len(annotated.left)} results left to other workers"
    if annotated.server is not None:
        yield f"model server: {annotated.server.line()}"
    yield from _usage_lines(report)
    yield f"{frames.decoded} frames decoded, {frames.from_cache} from the cache" + (
        f", {frames.fallback_files} files by the ffmpeg program" if frames.fallback_files else ""
    )


def _merge_lines(report: RunReport) -> Iterator[str]:
    places, merge = report.run.places, report.merge
    if merge is not None:
        yield (
            f"{merge.files_written} files and {merge.bytes_written} bytes written, "
            f"{merge.files_linked} files linked" + (" (the output is up to date)" if merge.unchanged else "")
        )
    yield f"staging: {places.staging}"
    if merge is not None:
        trial = "" if report.run.limit is None else " (a trial: the manifest's output is as it was)"
        yield f"output: {places.output}{trial}"
        yield from _published_lines(merge)


def _published_lines(merge: MergeResult) -> Iterator[str]:
    published = merge.published
    if published is None:
        return
    yield f"commit: {published.commit}" + (
        f", before it {published.previous_commit}" if published.previous_commit else ""
    )
    if published.pull_request:
        yield f"pull request: {published.pull_request}"
    if not published.is_unchanged:
        yield (
            f"{published.uploaded_bytes} bytes pushed, {published.copied_files} files copied on the Hub; "
            f"the version tag was away for {published.tag_gap_seconds:.2f} s"
        )
    yield from (f"note: {note}" for note in published.notes)


def _notes(annotated: AnnotateReport) -> Iterator[str]:
    yield from (f"warning: {warning}" for warning in annotated.warnings)
    if annotated.speech_only:
        episodes = ", ".join(map(str, sorted(annotated.speech_only)))
        yield (
            "note: without subtasks the module interjections made the first speech alone (episodes "
            f"{episodes}); enable the module plan, or run on a dataset that has subtasks"
        )
    if annotated.unanswered:
        yield (
            f"note: unanswered questions: {len(annotated.unanswered)}, named above; meta/annotationrun.json "
            "of the output lists them too; to ask them again, run with a new spec.retryToken or --retry-token"
        )


def print_line(console: Console, text: str) -> None:
    """One line, whatever ``text`` holds: words of datasets and servers are no markup and no commands."""
    console.print(plain_line(text), markup=False, highlight=False, soft_wrap=True)


def print_problems(console: Console, problems: list[Problem]) -> None:
    """One line a problem."""
    for problem in problems:
        print_line(console, str(problem))


def _usage_lines(report: RunReport) -> Iterator[str]:
    """One line for all requests, and one a kind of question where there were any."""
    used = report.used
    speed = f", {used.tokens_per_second:,g} tokens a second of a worker" if used.tokens_per_second else ""
    yield f"{report.cost.text()}; {used.retries} retries{speed}"
    for kind, usage in sorted(report.usage.items()):
        yield (
            f"  {kind}: {usage.requests} requests, {usage.retries} retries, {usage.prompt_tokens} prompt and "
            f"{usage.completion_tokens} output tokens"
        )
