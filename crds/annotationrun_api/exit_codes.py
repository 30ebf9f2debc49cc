"""Exit codes of every command, read by people, by scripts and by the pod failure policy."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status means; the numbers are an interface and never change their meaning."""

    OK = 0
    """Everything asked for is done."""
    FAILED = 1
    """An error that is none of the others, a defect of ours included."""
    USAGE = 2
    """The command line is wrong (click's own code)."""
    CONFIGURATION = 3
    """Manifest, model or settings are wrong or not supported: the same input fails again."""
    DATASET = 4
    """The dataset can't be read, or a validated dataset has errors."""
    INCOMPLETE = 5
    """Some episodes have no result; what was done is staged, a rerun asks only for the rest."""
    SERVER_NOT_READY = 6
    """The model server can't be reached or did not come up in time; nothing was lost."""
    STORAGE = 7
    """Staging, output or cache can't be read or written: full, read-only, permissions, damaged."""
    OUTPUT_MOVED = 8
    """Others pushed what the output would overwrite; nothing was pushed, run again."""
    OUTPUT = 9
    """The output can't be created, holds files no merge wrote, or would not be valid; it is as it was."""
    INTERRUPTED = 130
    """Ctrl-C or SIGTERM; what was answered is staged."""
