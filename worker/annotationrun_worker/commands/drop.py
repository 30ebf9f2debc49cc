"""``annotationrun drop``: remove what modules wrote."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console

from annotationrun_worker.commands.output import print_line
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.output.drop import DropPlan, drop_modules


def drop(
    dataset: Annotated[Path, typer.Argument(help="Folder of an annotated LeRobot v3.0 dataset.")],
    module: Annotated[
        list[str], typer.Option(help="Whose rows go: plan, interjections or vqa; may be given several times.")
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for the result; the dataset stays.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Change the dataset in place.")] = False,
) -> None:
    """Remove the rows of modules from an annotated dataset, into a new folder or in place.

    All other rows stay. Where none is left, the language columns go too.
    """
    if (output is None) != overwrite:
        raise typer.BadParameter("give one of --output FOLDER and --overwrite")
    modules = get_args(ModuleName)
    for name in module:
        if name not in modules:
            raise typer.BadParameter(
                f"got {name!r}, expected one of {', '.join(modules)}", param_hint="--module"
            )
    target = dataset if output is None else output
    dropped = drop_modules(DropPlan(dataset, target, frozenset(cast(list[ModuleName], module))))
    lines = [
        *(f"{name}: {count} rows dropped" for name, count in sorted(dropped.rows.items())),
        *(["no row is left, so the language columns are dropped"] if dropped.columns_dropped else []),
        f"{dropped.files_written} files and {dropped.bytes_written} bytes written, "
        f"{dropped.files_linked} files linked" + (" (the output is up to date)" if dropped.unchanged else ""),
        f"output: {target}",
    ]
    console = Console()
    for line in lines:
        print_line(console, line)
