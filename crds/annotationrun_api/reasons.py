"""Every reason of a condition or an event: what happened, and what to do. The runbook is made from it."""

from enum import StrEnum
from typing import Self

NOTHING = "Nothing."


class Reason(StrEnum):
    """Why a condition has its status. A reason is an interface: it is added, never renamed."""

    happened: str
    """A sentence."""
    remedy: str
    """What a person does about it, a sentence."""

    def __new__(cls, value: str, happened: str, remedy: str = NOTHING) -> Self:
        """Make the member of a value, what happened, and what to do."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.happened = happened
        member.remedy = remedy
        return member

    # The state of a run, in its order: reasons of Ready, and of Reconciling.
    PLANNING = "Planning", "The plan Job looks which results are missing."
    FETCHING_MODEL = (
        "FetchingModel",
        "The prefetch Job downloads the model into the claim of spec.model.serving.cache.",
    )
    ANNOTATING = "Annotating", "Workers ask the model."
    MERGING = "Merging", "The merge Job checks the rows, writes the dataset and publishes it."
    COMPLETE = "Complete", "The annotated dataset is published."
    STOPPING = "Stopping", "Pods of an earlier attempt are going; the next begins when they are gone."
    WAITING_FOR_PODS = (
        "WaitingForPods",
        "The pods of a step have not started yet.",
        "Nothing before spec.startDeadlineSeconds; the message names what the pods wait for.",
    )
    QUEUED = (
        "Queued",
        "Kueue holds the Job until its queue has room.",
        "Nothing; look at the Workload and at the LocalQueue if it takes too long.",
    )
    SUSPENDED = (
        "Suspended",
        "spec.suspend is true: the pods are gone, what is staged stays.",
        "Set spec.suspend to false to go on.",
    )

    # Steps: reasons of Planned, Annotated, Merged, Published.
    NOT_STARTED = "NotStarted", "An earlier step has not ended."
    IN_PROGRESS = "InProgress", "The step is at work."
    SUCCEEDED = "Succeeded", "The step has done its work."
    NOTHING_TO_DO = "NothingToDo", "Every result is there already, or the same dataset is published already."
    COMPLETE_WITH_FAILURES = (
        "CompleteWithFailures",
        "Some episodes failed, not more than spec.failurePolicy allows; they keep the rows that they had.",
        "See status.failures; set spec.retryToken to a new value to try them again.",
    )
    SPEC_CHANGED = "SpecChanged", "The spec was edited: the step is done again with what is staged."
    RETRY_REQUESTED = (
        "RetryRequested",
        "spec.retryToken or the annotation annotationrun.dev/requested-at has a new value:"
        " failed episodes and unanswered questions are tried again.",
    )
    SOURCE_CHANGED = (
        "SourceChanged",
        "The source has changed (spec.source.follow): what is new in it is annotated and published.",
    )
    MODEL_CHANGED = (
        "ModelChanged",
        "spec.model.revision names another commit than at the last plan (spec.source.follow): the model is"
        " asked about all episodes again.",
        "To stay with one commit of the model, set spec.model.revision to it.",
    )
    SOURCE_POLL_FAILED = (
        "SourcePollFailed",
        "The source could not be looked at for changes (spec.source.follow); the run stays as it is.",
        "Nothing if it passes: it is tried again after the interval; else mend what the message names.",
    )

    # The spec, or what it names, is wrong.
    INVALID_SPEC = (
        "InvalidSpec",
        "The spec holds a setting that is wrong in itself.",
        "Correct the fields that the message lists.",
    )
    CONFIGURATION_REFUSED = (
        "ConfigurationRefused",
        "A step found that the manifest, the model or its settings can't work (exit code 3).",
        "Correct what the message names; the same input fails again.",
    )
    DATASET_UNREADABLE = (
        "DatasetUnreadable",
        "The dataset can't be read (exit code 4).",
        "Repair the file that the message names, or leave its episodes out of spec.source.episodes.",
    )
    STORAGE_FAILED = (
        "StorageFailed",
        "Staging, output or cache can't be read or written (exit code 7).",
        "Make room, or correct the volume, the rights or the credentials; then set spec.retryToken.",
    )
    OUTPUT_MOVED = (
        "OutputMoved",
        "Others pushed to the output what ours would overwrite, three times after a new plan (exit code 8).",
        "Take what they changed over into the source, or name another branch or repository in spec.output.",
    )
    OUTPUT_REFUSED = (
        "OutputRefused",
        "The output can't be created where spec.output asks, holds files no merge wrote, or would not be"
        " valid (exit code 9).",
        "Do what the message says, such as to name another place in spec.output or to move what is there.",
    )
    NOT_ALLOWED = (
        "NotAllowed",
        "The spec chooses what this installation does not let runs choose.",
        "Remove the field that the message names, or choose what is allowed (the chart's values allowed.*).",
    )
    VOLUME_NOT_FOUND = (
        "VolumeNotFound",
        "A PersistentVolumeClaim of the spec is not in the run's namespace.",
        "Create it, or correct claimName.",
    )
    VOLUME_ACCESS_MODE = (
        "VolumeAccessMode",
        "A ReadWriteOnce claim can't serve pods on several nodes, and spec.workers.parallelism is over 1.",
        "Use a ReadWriteMany claim or an object store, or set parallelism to 1.",
    )

    # The cluster does not let the pods start.
    UNSCHEDULABLE = (
        "Unschedulable",
        "No node can take a pod.",
        "Compare the pod's requests, node selector and tolerations with the nodes; free or add GPUs.",
    )
    IMAGE_PULL_FAILED = (
        "ImagePullFailed",
        "An image can't be pulled.",
        "Correct spec.model.serving.image or spec.workers.pod.imagePullSecrets.",
    )
    CONTAINER_CONFIG_INVALID = (
        "ContainerConfigInvalid",
        "A container can't be created, as a rule because a Secret or its key is not there.",
        "Create the Secret that the message names.",
    )
    START_DEADLINE_EXCEEDED = (
        "StartDeadlineExceeded",
        "The pods had not started after spec.startDeadlineSeconds; they were removed and hold no GPU.",
        "Mend what the message names, then set spec.retryToken to a new value.",
    )
    QUOTA_EXCEEDED = (
        "QuotaExceeded",
        "A ResourceQuota or a LimitRange refuses the Job's pods.",
        "Raise the quota, or lower requests or spec.workers.parallelism; it is tried again slowly.",
    )
    ADMISSION_REFUSED = (
        "AdmissionRefused",
        "The API server refuses a Job or its pods: an admission policy, a webhook or Pod Security.",
        "Change spec.workers.pod, or the policy that the message names.",
    )
    JOB_CONFLICT = (
        "JobConflict",
        "A Job with the name of ours is there that is not ours.",
        "Delete the Job that the message names.",
    )

    # A step has started and does not succeed.
    SERVER_NOT_READY = (
        "ServerNotReady",
        "The model server did not become healthy in spec.model.serving.startTimeoutSeconds, or went away.",
        "Read the end of the server's log in the message; correct image, args, GPUs or endpoints.",
    )
    MODEL_DOWNLOAD_FAILED = (
        "ModelDownloadFailed",
        "The model could not be downloaded into the claim of spec.model.serving.cache.",
        "Do what the message says: correct spec.model.id, revision or serving.tokenSecretRef, or make room in"
        " the claim; then set spec.retryToken.",
    )
    OUT_OF_MEMORY = (
        "OutOfMemory",
        "A container was killed because it used more memory than its limit.",
        "Raise the limit in spec.workers.resources or in the chart's jobs.resources, or lower"
        " spec.frames.cacheBytes or spec.workers.episodeConcurrency.",
    )
    PODS_FAILED = (
        "PodsFailed",
        "More pods of a step failed than are tried again.",
        "Read the end of the log in the message; then set spec.retryToken to a new value.",
    )
    PLAN_UNREADABLE = (
        "PlanUnreadable",
        "The plan Job ended three times without a result that can be read.",
        "Read the plan pod's log; report it as a defect.",
    )
    NO_PROGRESS = (
        "NoProgress",
        "Three attempts in a row, or many disruptions, brought no further result.",
        "See status.failures and the workers' logs; then set spec.retryToken to a new value.",
    )
    TOO_MANY_FAILED_EPISODES = (
        "TooManyFailedEpisodes",
        "More episodes failed than spec.failurePolicy.maxFailedEpisodes allows; nothing was published.",
        "See status.failures; mend the cause and set spec.retryToken, or allow more.",
    )
    ACTIVE_DEADLINE_EXCEEDED = (
        "ActiveDeadlineExceeded",
        "The run was active for longer than spec.activeDeadlineSeconds; what is staged stays.",
        "Raise it to go on.",
    )
    INTERNAL_ERROR = (
        "InternalError",
        "A defect of the operator or of a worker.",
        "Report it with the operator's log; it is tried again.",
    )

    # Events, and notes beside the state.
    JOB_CREATED = "JobCreated", "The Job of a step was created."
    JOB_DELETED = "JobDeleted", "The Job of a step was deleted."
    PROGRESS_UNAVAILABLE = (
        "ProgressUnavailable",
        "No worker can be asked for its progress, so it is counted by ended pods.",
        "Let the operator reach the workers' port where a NetworkPolicy or a mesh forbids it.",
    )
    SETTINGS_WITHOUT_EFFECT = (
        "SettingsWithoutEffect",
        "Some fields of the spec have no effect with its other settings; the run goes on.",
        "Remove the fields that the message names, or set what they need.",
    )


def find_reason(word: str) -> Reason | None:
    """The reason of a word; None for one of another version."""
    return next((reason for reason in Reason if reason.value == word), None)
