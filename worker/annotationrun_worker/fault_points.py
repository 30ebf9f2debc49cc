"""The places where a killed process may leave something half done, each by name.

A run that is killed at any of them, and started again, ends with the same bytes as one that was left alone.
The code says where it is with ``reached``; nothing happens then, unless somebody listens: the tests do, and
kill the process there.
"""

from collections.abc import Callable
from enum import StrEnum


class FaultPoint(StrEnum):
    """Where a process can be killed; the words say what has just been done, or is just about to be."""

    AFTER_PLAN = "after the plan is staged"
    BEFORE_CLAIM = "before a claim is put"
    AFTER_CLAIM = "after a claim is put"
    BEFORE_ANSWER = "before an answer is put"
    AFTER_ANSWER = "after an answer is put, before the next"
    BEFORE_RESULT = "before a result is put"
    AFTER_RESULT = "after a result is put"
    BEFORE_FAILURE = "before a failure is put"
    BEFORE_DATA_FILE = "before a data file of the merged dataset is written"
    BEFORE_METADATA = "before the metadata of the merged dataset is written"
    BEFORE_OUTPUT_ASIDE = "before the old output is renamed aside"
    BEFORE_OUTPUT_RENAME = "before the new output is renamed to its place"
    AFTER_OUTPUT_RENAME = "after the new output is at its place, the old one not yet deleted"
    MID_JOURNAL = "in the middle of the journal of a merge in place"
    AFTER_JOURNAL = "after the journal of a merge in place"
    BEFORE_FILE_RENAME = "before a file of a merge in place is renamed to its place"
    AFTER_FILE_RENAMES = "after all files of a merge in place are at their places, the journal still there"
    BEFORE_HUB_COMMIT = "before the commit is sent to the Hub, the large files uploaded"
    AFTER_HUB_COMMIT = "after the Hub made the commit, before its answer is used"
    BETWEEN_TAGS = "after the Hub's version tag is deleted, before it is created at the new commit"
    AFTER_TAG = "after the Hub's version tag is created, before the journal of the publish is deleted"
    BEFORE_MERGE_RECORD = "before the merge is recorded in staging"


def _nobody(point: FaultPoint) -> None:
    """Nothing happens at a fault point unless somebody listens."""


listener: Callable[[FaultPoint], None] = _nobody
"""Called at each fault point."""


def reached(point: FaultPoint) -> None:
    """Say that the process is at ``point``."""
    listener(point)
