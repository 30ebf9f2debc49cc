"""The command line: ``annotationrun run | validate | show | demo``."""

import signal
from collections.abc import Callable
from functools import wraps
from types import FrameType
from typing import NoReturn

import typer

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.commands.demo import demo
from annotationrun_worker.commands.run import run
from annotationrun_worker.commands.show import show
from annotationrun_worker.commands.validate import validate
from annotationrun_worker.exit_status import exit_code_of

app = typer.Typer(
    help="Language annotations for LeRobot datasets from a vision-language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _at_the_edge(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every error of ours turned into its text on stderr and its exit code."""

    @wraps(command)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except AnnotationRunError as error:
            typer.echo(f"annotationrun: {error}", err=True)
            raise typer.Exit(exit_code_of(error)) from error
        except KeyboardInterrupt as error:
            typer.echo(
                "annotationrun: interrupted; what was answered is staged, run again to go on", err=True
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from error

    return guarded


for command in (run, validate, show, demo):
    app.command()(_at_the_edge(command))


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; SIGTERM stops it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _stop)
    app()


if __name__ == "__main__":
    main()
