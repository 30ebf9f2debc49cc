"""The root of every error this project raises.

AnnotationRunError
├── TransientError          worth another try, unchanged
└── PermanentError          the same input fails again: somebody has to change something
    ├── ManifestError       the manifest can't be read, or holds settings that are wrong; it lists them all
    ├── UnsupportedError    the manifest is right, this version can't do it yet
    └── UnreadableResultError   what a step's pod tells is not what this version writes

Each package draws its own branch in its own ``errors.py``. An error says what, where, what was got, what was
expected and what to do next; names are quoted with ``!r``; remote text is cut; tokens never appear.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class AnnotationRunError(Exception):
    """Base of all errors; ``str()`` is the whole message for the user."""


class TransientError(AnnotationRunError):
    """Something outside that may well work next time: a busy server, a lost connection."""


class PermanentError(AnnotationRunError):
    """Something that another try won't mend."""


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """One thing that is wrong in a manifest."""

    line: int
    """Line in the file, from 1; 0 where the file could not be read."""
    column: int
    """Column in the line, from 1, in characters."""
    path: str
    """The field by YAML names, such as ``spec.model.id``; empty for the file as a whole."""
    got: str
    expected: str
    next_step: str

    def describe(self, name: str) -> str:
        """Say it to a person; `name` is the file's."""
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        return (
            f"{place}: {self.path or 'the file as a whole'}\n"
            f"    got: {self.got}\n    expected: {self.expected}\n    next: {self.next_step}"
        )


class ManifestError(PermanentError):
    """A manifest that can't be read or is wrong; the message lists every problem, in the file's order."""

    def __init__(self, name: str, problems: Sequence[ManifestProblem]) -> None:
        count = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
        listed = "\n".join(problem.describe(name) for problem in problems)
        super().__init__(f"manifest {name!r} has {count}\n{listed}")
        self.name = name
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["ManifestError"], tuple[str, tuple[ManifestProblem, ...]]]:
        return type(self), (self.name, self.problems)


class UnsupportedError(PermanentError):
    """A valid setting that this version does not carry out yet; it is never ignored in silence."""


class UnreadableResultError(PermanentError):
    """A termination message, or a progress answer, that is not what this version writes."""
