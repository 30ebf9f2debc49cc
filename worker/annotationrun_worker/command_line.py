"""The commands, put together; only the one that is called is imported, as that takes a while."""

import importlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Final

import typer

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.interrupts import raise_when_stopped
from annotationrun_worker.lasting_imports import lasting_imports
from annotationrun_worker.plain_text import plain_line, plain_lines

COMMANDS: Final[Mapping[str, str]] = {
    "run": "Annotate the manifest's dataset and write the annotated one.",
    "plan": "Tell what a run would do, before anything is spent.",
    "prefetch": "Fetch the manifest's model from the Hub into a folder, if it is not there yet.",
    "annotate": "Make the results that are missing; write nothing to the output.",
    "merge": "Write the annotated dataset from what is staged; nothing is asked.",
    "validate": "Check every rule of the language columns; exits 4 if one is broken.",
    "show": "Count the rows by style and episode, or show the timeline of one episode.",
    "drop": "Remove the rows of modules from an annotated dataset, into a new folder or in place.",
    "gc": "Delete what killed workers left in a staging store.",
    "demo": "Make a dataset, annotate it with a model that looks at the pixels, validate it, and show it.",
}
"""By name, the first line of each command's help; the function has the name of its module."""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The application for one call, the command that ``arguments`` begin with imported."""
    app = typer.Typer(
        help="Language annotations for LeRobot datasets from a vision-language model.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for name, summary in COMMANDS.items():
        if arguments[:1] == [name]:
            app.command(name)(_at_the_edge(_loaded(name)))
        else:
            app.command(name, help=summary)(_not_called)
    return app


def load_command(name: str) -> Callable[..., None]:
    """Import the command ``name``.

    Raises:
        ConfigurationError: a package that it needs is not installed.
    """
    try:
        with lasting_imports():
            module = importlib.import_module(f"annotationrun_worker.commands.{name}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("annotationrun"):
            raise
        raise ConfigurationError(
            f"the command {name!r} needs the package {package!r}, which is not installed; install what the "
            "commands need: pip install 'annotationrun[run]'"
        ) from error
    command: Callable[..., None] = getattr(module, name)
    return command


def _loaded(name: str) -> Callable[..., None]:
    try:
        return load_command(name)
    except ConfigurationError as error:
        raise SystemExit(_tell(error)) from error


def _not_called() -> None:
    """Stands in the list of commands for one that is not imported."""


class _PlainFormatter(logging.Formatter):
    """Log messages on one line each, as ``plain_line`` makes them."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message of ``record``."""
        return plain_line(super().formatMessage(record))


def _log_plainly() -> None:
    """Warnings and errors go to stderr, as Python's logging does where nothing is set up, but escaped."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())


def _tell(error: AnnotationRunError) -> ExitCode:
    """Print the message of ``error`` to stderr; the exit code that it ends a command with."""
    typer.echo(plain_lines(f"annotationrun: {error}"), err=True)
    return exit_code_of(error)


def _at_the_edge(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every error of ours turned into its text on stderr and its exit code."""

    @wraps(command)
    def guarded(*args: object, **kwargs: object) -> None:
        _log_plainly()
        try:
            with raise_when_stopped():
                command(*args, **kwargs)
        except AnnotationRunError as error:
            raise typer.Exit(_tell(error)) from error
        except KeyboardInterrupt as error:
            typer.echo(
                "annotationrun: interrupted; what was answered is staged, run again to go on", err=True
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from error

    return guarded
