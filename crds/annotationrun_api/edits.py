"""What an edit of a run's spec asks for again, by the field that is edited.

The operator tells them apart by digests over parts of the spec; a test holds the two together.
"""

from enum import Enum
from typing import Final


class EditClass(Enum):
    """What follows an edit; the value is the sentence of the reference."""

    AT_ONCE = "It holds at once. Nothing is planned or asked again."
    NEXT_JOB = (
        "It holds from the next Job on; Jobs that exist go on as they are. To have it at once, suspend the"
        " run and go on."
    )
    MERGE = "The merge is done again. Nothing is planned or asked again."
    PLAN = (
        "What is going on is stopped, and the run is planned anew. Staged answers and results count: the"
        " model is asked only what the edit changes."
    )


_CLASSES: Final = {
    "spec": EditClass.PLAN,
    "spec.suspend": EditClass.AT_ONCE,
    "spec.ttlSecondsAfterFinished": EditClass.AT_ONCE,
    "spec.activeDeadlineSeconds": EditClass.AT_ONCE,
    "spec.startDeadlineSeconds": EditClass.AT_ONCE,
    "spec.workers": EditClass.NEXT_JOB,
    "spec.queueName": EditClass.NEXT_JOB,
    "spec.model.serving": EditClass.NEXT_JOB,
    "spec.model.serving.mode": EditClass.PLAN,
    "spec.source.follow": EditClass.AT_ONCE,
    "spec.source.tokenSecretRef": EditClass.NEXT_JOB,
    "spec.source.cacheBytes": EditClass.NEXT_JOB,
    "spec.frames.cacheBytes": EditClass.NEXT_JOB,
    "spec.output.tokenSecretRef": EditClass.NEXT_JOB,
    "spec.staging.credentialsSecretRef": EditClass.NEXT_JOB,
    "spec.output": EditClass.MERGE,
    "spec.output.existingRows": EditClass.PLAN,
    "spec.failurePolicy.maxFailedEpisodes": EditClass.MERGE,
}
"""By path; a path stands for all under it that is not named itself."""


def edit_class(path: str) -> EditClass:
    """What an edit of the field at a path such as ``spec.workers.parallelism`` asks for."""
    found = _CLASSES.get(path)
    return found if found is not None else edit_class(path.rpartition(".")[0])


def paths_of(kind: EditClass) -> tuple[str, ...]:
    """The paths that name a class, without ``spec`` itself."""
    return tuple(path for path, named in _CLASSES.items() if named is kind and path != "spec")
