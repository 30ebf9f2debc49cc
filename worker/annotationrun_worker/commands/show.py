"""``annotationrun show``: what stands in an annotated dataset."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_worker.commands.output import print_line
from annotationrun_worker.dataset.layout import check_entries
from annotationrun_worker.language.show import counts_table, row_counts, timeline, vqa_coverage


def show(
    dataset: Annotated[Path, typer.Argument(help="Folder of an annotated LeRobot v3.0 dataset.")],
    episode: Annotated[int | None, typer.Option(help="Show this episode's timeline instead.")] = None,
) -> None:
    """Count the rows by style and episode, or show the timeline of one episode."""
    console = Console()
    check_entries(dataset)
    if episode is None:
        console.print(counts_table(row_counts(dataset)))
        console.print(vqa_coverage(dataset), highlight=False)
    else:
        for line in timeline(dataset, episode):
            print_line(console, line)
