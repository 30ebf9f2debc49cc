"""Labels and annotations of runs, Jobs and pods: names that never change their meaning."""

from enum import StrEnum

GROUP = "annotationrun.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURAL = "annotationruns"

FIELD_MANAGER = "annotationrun-operator"
"""Owner of the fields that the operator writes."""


class Step(StrEnum):
    """The steps of a run, each a Job; the value of `STEP_LABEL` and part of the Job's name."""

    PLAN = "plan"
    PREFETCH = "prefetch"
    """Only where a claim is to keep the model's files."""
    ANNOTATE = "annotate"
    MERGE = "merge"


# Labels of each Job and pod of a run (https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/).
NAME_LABEL = "app.kubernetes.io/name"
COMPONENT_LABEL = "app.kubernetes.io/component"
PART_OF_LABEL = "app.kubernetes.io/part-of"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
RUN_NAME_LABEL = f"{GROUP}/run-name"
RUN_UID_LABEL = f"{GROUP}/run-uid"
"""What a run's children are listed by: a run that is made again under the same name has another UID."""
STEP_LABEL = f"{GROUP}/step"
ATTEMPT_LABEL = f"{GROUP}/attempt"

APP_NAME = "annotationrun"
"""Value of `NAME_LABEL` and `PART_OF_LABEL`."""

# Annotations of a Job.
SPEC_DIGEST_ANNOTATION = f"{GROUP}/spec-digest"
"""SHA-256 over the Job's spec as it was created: a Job of our name with another one is not ours to adopt."""

# Annotations of a run, written by people and tools.
REQUESTED_AT_ANNOTATION = f"{GROUP}/requested-at"
"""Any new value opens a new attempt and lifts the quarantine of episodes, as a new `spec.retryToken` does."""

# Kueue (https://kueue.sigs.k8s.io/docs/reference/labels-and-annotations/).
KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
COPIED_PREFIXES = ("kueue.x-k8s.io/",)
"""Labels of the run that its Jobs get too; no others, as GitOps tools prune what bears their labels."""
