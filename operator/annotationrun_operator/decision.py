"""What a pass over a run comes to: a status to write, and then what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from annotationrun_api.reasons import Reason
from annotationrun_api.status import RunStatus


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create a Job; one of the same name is adopted if it is ours and of the same spec digest."""

    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The Job's name."""
        return str(self.manifest["metadata"]["name"])


@dataclass(frozen=True, slots=True)
class DeleteJob:
    """Delete a Job and, in the background, its pods."""

    name: str
    uid: str
    """Precondition: another Job of that name is left alone."""


Action = CreateJob | DeleteJob


@dataclass(frozen=True, slots=True)
class Announcement:
    """An Event about the run."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The status is written first, if it changed; the actions follow only if that succeeded."""

    status: RunStatus
    actions: tuple[Action, ...] = ()
    announcements: tuple[Announcement, ...] = ()
    recheck_seconds: float | None = None
    """Look again after so long, though nothing changes: a deadline, a slow retry, progress."""
