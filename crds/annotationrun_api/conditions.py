"""Conditions of a run: their types, one condition, and how a set of them changes.

`Ready`, `Reconciling`, `Stalled` mean what kstatus says
(https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md); the reason of `Ready` is the
state that ``kubectl get`` shows. `Complete`, `Failed`, `Suspended` are those of a Job. The others are steps.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from annotationrun_api.reasons import Reason
from annotationrun_api.status_types import Count, StatusModel, Text1024, Time, Word


class ConditionType(StrEnum):
    """What a condition is about."""

    meaning: str
    """What status True says, as a clause."""

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make the member of a value and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    READY = "Ready", "the annotated dataset lies where the spec asks; its reason is the state of the run"
    RECONCILING = "Reconciling", "the operator works towards the spec"
    STALLED = "Stalled", "nothing goes on until somebody changes something"
    COMPLETE = "Complete", "the run has ended and its dataset is published"
    FAILED = "Failed", "the run has ended without success"
    SUSPENDED = "Suspended", "the run holds, by spec.suspend; what is staged stays"
    PLANNED = "Planned", "which results are missing is known"
    ANNOTATED = "Annotated", "every planned episode has its results, but for those that may fail"
    MERGED = "Merged", "the rows are checked and written into the dataset's files"
    PUBLISHED = "Published", "the merged dataset lies where spec.output says"


STEP_CONDITIONS = (
    ConditionType.PLANNED,
    ConditionType.ANNOTATED,
    ConditionType.MERGED,
    ConditionType.PUBLISHED,
)
"""What the steps come to, in their order."""


class Condition(StatusModel):
    """One condition, with the fields of ``metav1.Condition``.

    Types and reasons that this version does not know are kept: others may add conditions to a run.
    """

    type: Word = Field(description="type: what the condition is about. Required.")
    status: Literal["True", "False", "Unknown"] = Field(
        description="status: True, False or Unknown. Required."
    )
    reason: Word = Field(description="reason: why; a word of the runbook. Required.")
    message: Text1024 = Field(
        default="", description='message: what happened, and what to do. Default "": nothing to add.'
    )
    observed_generation: Count = Field(
        default=0,
        description="observedGeneration: generation of the spec that it is about. Default 0: unknown.",
    )
    last_transition_time: Time = Field(description="lastTransitionTime: when status last changed. Required.")


_ORDER = {kind.value: position for position, kind in enumerate(ConditionType)}


def find_condition(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """The condition of a type; None where it was never set."""
    return next((condition for condition in conditions if condition.type == kind), None)


def holds(conditions: Iterable[Condition], kind: ConditionType) -> bool:
    """Whether the condition of a type is there with status True."""
    found = find_condition(conditions, kind)
    return found is not None and found.status == "True"


def with_condition(conditions: Iterable[Condition], new: Condition) -> tuple[Condition, ...]:
    """The conditions with one set, in the order of `ConditionType`, those of others last.

    A condition whose status stays keeps its ``lastTransitionTime``.
    """
    others: list[Condition] = []
    for condition in conditions:
        if condition.type != new.type:
            others.append(condition)
        elif condition.status == new.status:
            new = new.model_copy(update={"last_transition_time": condition.last_transition_time})
    return tuple(
        sorted(
            [*others, new], key=lambda condition: (_ORDER.get(condition.type, len(_ORDER)), condition.type)
        )
    )


def condition(
    kind: ConditionType, status: bool | None, reason: Reason, message: str = "", *, generation: int, now: Time
) -> Condition:
    """Make a condition; status None is Unknown. A long message is cut."""
    return Condition(
        type=kind.value,
        status="Unknown" if status is None else "True" if status else "False",
        reason=reason.value,
        message=message,
        observed_generation=generation,
        last_transition_time=now,
    )
