"""The command line: ``annotationrun run | validate | show | demo``."""

import sys

from annotationrun_worker.interrupts import leave_when_stopped


def main() -> None:
    """Run the command line; Ctrl-C and SIGTERM are seen to before anything that takes time is imported."""
    leave_when_stopped()
    from annotationrun_worker.command_line import build_app

    build_app(sys.argv[1:])()


if __name__ == "__main__":
    main()
