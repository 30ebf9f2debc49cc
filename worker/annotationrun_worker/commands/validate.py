"""``annotationrun validate``: is this an annotated dataset that LeRobot loads?"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.commands.output import print_line, print_problems
from annotationrun_worker.dataset.layout import check_entries
from annotationrun_worker.language.validate import validate_dataset


def validate(
    dataset: Annotated[Path, typer.Argument(help="Folder of an annotated LeRobot v3.0 dataset.")],
) -> None:
    """Check every rule of the language columns; exits 4 if one is broken."""
    console = Console()
    check_entries(dataset)
    problems = validate_dataset(dataset)
    print_problems(console, problems)
    errors = sum(problem.severity == "error" for problem in problems)
    warnings = len(problems) - errors
    verdict = "invalid" if errors else "valid"
    print_line(console, f"{dataset}: {verdict}, {errors} errors, {warnings} warnings")
    if errors:
        raise typer.Exit(ExitCode.DATASET)
