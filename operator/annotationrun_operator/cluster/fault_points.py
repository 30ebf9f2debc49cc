"""The places where a killed operator may leave something half done, each by name.

An operator that is killed at any of them, and started again, comes to the same Jobs and the same status as
one that was left alone. The code says where it is with ``reached``; nothing happens then, unless somebody
listens: the tests do, and kill the process there.
"""

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """Where a process can be killed: each write to the API server, just before it and just after it."""

    BEFORE_STATUS = "before the status is written"
    AFTER_STATUS = "after the status is written"
    BEFORE_CREATE_JOB = "before a Job is created"
    AFTER_CREATE_JOB = "after a Job is created"
    BEFORE_DELETE_JOB = "before a Job is deleted"
    AFTER_DELETE_JOB = "after a Job is deleted"
    BEFORE_EVENT = "before an Event is created"
    AFTER_EVENT = "after an Event is created"


def _nobody(point: FaultPoint) -> None:
    """Nothing happens at a fault point unless somebody listens."""


listener: Callable[[FaultPoint], None] = _nobody
"""Called at each fault point."""


def reached(point: FaultPoint) -> None:
    """Say that the process is at ``point``."""
    listener(point)
