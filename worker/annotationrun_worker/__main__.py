"""The command line: ``annotationrun run | validate | show | demo``."""

import contextlib
import os
import sys
from typing import NoReturn

from annotationrun_worker.interrupts import leave_when_stopped


def main() -> None:
    """Run the command line; Ctrl-C and SIGTERM are seen to before anything that takes time is imported."""
    leave_when_stopped()
    from annotationrun_worker.command_line import build_app

    try:
        build_app(sys.argv[1:])()
    except SystemExit as ending:
        _leave(ending.code)


def _leave(code: str | int | None) -> NoReturn:
    """End the process at once, everything printed.

    A thread of obstore may still be waking the event loop of what it wrote. Were the interpreter taken apart
    meanwhile, Python before 3.14 would end that thread, which aborts the process: with exit code 134.
    """
    with contextlib.suppress(OSError):  # who read it is gone
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    main()
