"""What became of a Job: why its pods have not started, what its pod tells, why it failed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from annotationrun_api.errors import UnreadableResultError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.reasons import Reason
from annotationrun_api.step_results import MergeOutcome, PlanResult, PrefetchResult, ResultT, read_result
from annotationrun_operator.manifests.jobs import AfterExit, codes_that, policy_of
from annotationrun_operator.manifests.pods import WORKER_CONTAINER
from annotationrun_operator.manifests.sidecar import SIDECAR_CONTAINER
from annotationrun_operator.observation import ContainerView, JobEvent, JobView, PodView

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


SHOWN_CHARACTERS: Final = 600
"""Of the end of a log, in a message."""

_HOPELESS = codes_that(lambda policy: policy.after in {AfterExit.END, AfterExit.PLAN_AGAIN})
# As the Job controller words it where the pod is gone already.
_EXIT_CODE_IN_MESSAGE = re.compile(r"failed with exit code (\d+)")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a Job failed."""

    reason: Reason
    message: str


def pods_of(job: JobView, pods: Sequence[PodView]) -> list[PodView]:
    """The pods of a Job, the newest first."""
    return sorted(
        (pod for pod in pods if pod.job_name == job.name), key=lambda pod: pod.created, reverse=True
    )


def told_by(pods: Sequence[PodView], kind: type[ResultT]) -> ResultT | None:
    """The result that a pod's termination message holds; None if there is none that can be read."""
    for pod in pods:
        worker = pod.container(WORKER_CONTAINER)
        if worker is not None and worker.exit_message:
            try:
                return read_result(worker.exit_message, kind)
            except UnreadableResultError:
                continue
    return None


def prefetch_result(job: JobView, pods: Sequence[PodView]) -> PrefetchResult | None:
    """What the prefetch's pod tells."""
    return told_by(pods_of(job, pods), PrefetchResult)


def merge_outcome(job: JobView, pods: Sequence[PodView]) -> MergeOutcome | None:
    """What the merge's pod tells, whether it failed or not."""
    return told_by(pods_of(job, pods), MergeOutcome)


def plan_result(job: JobView, pods: Sequence[PodView]) -> PlanResult | None:
    """What the plan's pod tells."""
    return told_by(pods_of(job, pods), PlanResult)


def job_failure(job: JobView, pods: Sequence[PodView]) -> Failure:
    """Why a failed Job failed: by the exit codes of its workers, else by what the Job says itself."""
    mine = pods_of(job, pods)
    for codes in (_HOPELESS, (ExitCode.STORAGE,)):
        for pod in mine:
            worker = pod.container(WORKER_CONTAINER)
            if worker is not None and worker.exit_code in codes:
                return pod_failure(pod, worker)
    for pod in mine:
        for container in pod.containers:
            if container.exit_reason == "OOMKilled":
                return Failure(Reason.OUT_OF_MEMORY, f"pod {pod.name}, container {container.name}")
    for pod in mine:
        worker = pod.container(WORKER_CONTAINER)
        if worker is not None and worker.exit_code not in (None, ExitCode.OK, ExitCode.INTERRUPTED):
            return pod_failure(pod, worker)
    return _as_the_job_says(job)


def pod_failure(pod: PodView, worker: ContainerView) -> Failure:
    """Why a worker failed, in its own words."""
    code = worker.exit_code or 0
    message = f"pod {pod.name} ended with exit code {code}: {_end(worker.exit_message)}"
    if code == ExitCode.SERVER_NOT_READY:
        server = pod.container(SIDECAR_CONTAINER)
        if server is not None and server.exit_message:
            message += f"; the server said: {_end(server.exit_message)}"
    return Failure(policy_of(code).reason, message)


def _as_the_job_says(job: JobView) -> Failure:
    said = job.condition("Failed")
    message = f"{said.reason}: {said.message}" if said else "no word of it"
    code = _EXIT_CODE_IN_MESSAGE.search(message)
    reason = policy_of(int(code[1])).reason if code else Reason.PODS_FAILED
    return Failure(reason, f"Job {job.name}: {message}")


def _end(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARACTERS else f"...{text[-SHOWN_CHARACTERS:]}"
