"""What follows a worker's exit code: the one table that Jobs, messages and steps go by.

A failure that another try can't heal ends the Job at once; others are tried again as often as the Job may.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.reasons import Reason


class AfterExit(Enum):
    """What follows the end of a worker."""

    DONE = auto()
    """The pod has done its work."""
    IGNORE = auto()
    """The pod was stopped: it counts as no try."""
    RETRY_THEN_GO_ON = auto()
    """Tried again; at last the merge looks what there is, and what is missing gets another attempt."""
    RETRY_THEN_END = auto()
    """Tried again; at last the run ends."""
    GO_ON = auto()
    """The Job ends at once; the run goes on by what there is."""
    PLAN_AGAIN = auto()
    """The Job ends at once; the run is planned anew, a few times."""
    END = auto()
    """The Job and the run end at once: the same input fails again."""


@dataclass(frozen=True, slots=True)
class ExitPolicy:
    """Of an exit code."""

    after: AfterExit
    reason: Reason
    """Of a failure by it."""

    @property
    def ends_job(self) -> bool:
        """Whether the Job ends at once, with whatever tries it has left."""
        return self.after in {AfterExit.GO_ON, AfterExit.PLAN_AGAIN, AfterExit.END}

    @property
    def ends_run(self) -> bool:
        """Whether the run ends once the Job has: another attempt would fail alike."""
        return self.after in {AfterExit.RETRY_THEN_END, AfterExit.END}


EXIT_POLICIES: Final[Mapping[ExitCode, ExitPolicy]] = {
    ExitCode.OK: ExitPolicy(AfterExit.DONE, Reason.SUCCEEDED),
    ExitCode.FAILED: ExitPolicy(AfterExit.RETRY_THEN_GO_ON, Reason.PODS_FAILED),
    ExitCode.USAGE: ExitPolicy(AfterExit.END, Reason.CONFIGURATION_REFUSED),
    ExitCode.CONFIGURATION: ExitPolicy(AfterExit.END, Reason.CONFIGURATION_REFUSED),
    ExitCode.DATASET: ExitPolicy(AfterExit.END, Reason.DATASET_UNREADABLE),
    ExitCode.INCOMPLETE: ExitPolicy(AfterExit.GO_ON, Reason.PODS_FAILED),
    ExitCode.SERVER_NOT_READY: ExitPolicy(AfterExit.RETRY_THEN_END, Reason.SERVER_NOT_READY),
    ExitCode.STORAGE: ExitPolicy(AfterExit.RETRY_THEN_END, Reason.STORAGE_FAILED),
    ExitCode.OUTPUT_MOVED: ExitPolicy(AfterExit.PLAN_AGAIN, Reason.OUTPUT_MOVED),
    ExitCode.OUTPUT: ExitPolicy(AfterExit.END, Reason.OUTPUT_REFUSED),
    ExitCode.INTERRUPTED: ExitPolicy(AfterExit.IGNORE, Reason.PODS_FAILED),
}
"""Every code that a worker ends with by itself."""

_OF_OTHERS: Final = ExitPolicy(AfterExit.RETRY_THEN_GO_ON, Reason.PODS_FAILED)
"""Of a code that no worker gives, as of a signal: 137, 139."""


def policy_of(code: int) -> ExitPolicy:
    """What follows an exit code, be it of a worker or of a signal."""
    return next((policy for known, policy in EXIT_POLICIES.items() if known == code), _OF_OTHERS)


def codes_that(holds: Callable[[ExitPolicy], bool]) -> list[int]:
    """The exit codes of whose policies it ``holds``, in order."""
    return sorted(int(code) for code, policy in EXIT_POLICIES.items() if holds(policy))
