"""Why the pods of a Job have not started."""

from collections.abc import Sequence
from dataclasses import dataclass

from annotationrun_api.reasons import Reason
from annotationrun_operator.observation import JobEvent, PodView
from annotationrun_operator.pods import WORKER_CONTAINER

# https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/types.go
_IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
# https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/kuberuntime/kuberuntime_container.go
_CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Waiting:
    """What pods wait for."""

    reason: Reason
    message: str


def has_started(pods: Sequence[PodView]) -> bool:
    """Whether the worker of any of the pods runs, or has run."""
    workers = (pod.container(WORKER_CONTAINER) for pod in pods)
    return any(worker and (worker.is_running or worker.exit_code is not None) for worker in workers)


def why_waiting(pods: Sequence[PodView], events: Sequence[JobEvent]) -> Waiting:
    """What holds back the pods of a Job none of which has started; what is graver is told first."""
    if not pods:
        return _not_created(events)
    found = [_of_pod(pod) for pod in pods if not pod.has_ended]
    order = (Reason.CONTAINER_CONFIG_INVALID, Reason.IMAGE_PULL_FAILED, Reason.UNSCHEDULABLE)
    for reason in order:
        for waiting in found:
            if waiting.reason is reason:
                return waiting
    return Waiting(Reason.WAITING_FOR_PODS, "")


def _of_pod(pod: PodView) -> Waiting:
    if not pod.is_scheduled:
        if pod.unscheduled_reason:
            return Waiting(Reason.UNSCHEDULABLE, f"pod {pod.name}: {pod.unscheduled_message}")
        return Waiting(Reason.WAITING_FOR_PODS, "")
    for container in pod.containers:
        where = f"pod {pod.name}, container {container.name}: {container.waiting_reason}"
        if container.waiting_reason in _IMAGE_REASONS:
            return Waiting(
                Reason.IMAGE_PULL_FAILED, f"{where}, image {container.image!r}: {container.waiting_message}"
            )
        if container.waiting_reason in _CONFIG_REASONS:
            return Waiting(Reason.CONTAINER_CONFIG_INVALID, f"{where}: {container.waiting_message}")
    return Waiting(Reason.WAITING_FOR_PODS, "")


def _not_created(events: Sequence[JobEvent]) -> Waiting:
    for event in events:
        if event.reason == "FailedCreate":
            return Waiting(refusal_reason(event.message), event.message)
    return Waiting(Reason.WAITING_FOR_PODS, "")


def refusal_reason(message: str) -> Reason:
    """What a refusal of the API server is about, by its words."""
    # ResourceQuota's and LimitRange's admission say nothing more by which they are known.
    words = ("exceeded quota", "failed quota", "must specify", "usage per Pod is", "usage per Container is")
    return Reason.QUOTA_EXCEEDED if any(word in message for word in words) else Reason.ADMISSION_REFUSED
