"""Objects of the API server as the values that a decision is made from. Pure: others ask for them."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from annotationrun_api.labels import (
    ATTEMPT_LABEL,
    KUEUE_QUEUE_LABEL,
    RUN_UID_LABEL,
    SPEC_DIGEST_ANNOTATION,
    STEP_LABEL,
    Step,
)
from annotationrun_api.spec import KIND
from annotationrun_api.status import read_status
from annotationrun_operator.errors import UnreadableObjectError
from annotationrun_operator.observation import (
    ClaimView,
    ContainerView,
    JobCondition,
    JobEvent,
    JobView,
    PodView,
    RunObject,
)

Raw = Mapping[str, Any]

_SERVING = ("model", "serving")
_CLAIM_PLACES = (
    ("source", "volume"),
    ("output", "volume"),
    ("staging", "volume"),
    (*_SERVING, "cache"),
)
_STEPS = {step.value for step in Step}


def view_run(raw: Raw) -> RunObject:
    """A run.

    Raises:
        UnreadableObjectError: its status does not fit the schema, so that it can't be gone on from.
    """
    metadata = raw["metadata"]
    try:
        status = read_status(raw.get("status"))
    except ValueError as error:
        raise UnreadableObjectError(
            f"the status of run {metadata['name']!r} in namespace {metadata['namespace']!r} is not what this"
            f" version writes: {error}; remove it: kubectl patch --subresource=status"
        ) from error
    return RunObject(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        resource_version=metadata["resourceVersion"],
        manifest={key: raw[key] for key in ("apiVersion", "kind", "metadata", "spec") if key in raw},
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        status=status,
        created=_time(metadata["creationTimestamp"]),
        is_deleting="deletionTimestamp" in metadata,
    )


def is_job_of(raw: Raw, run_uid: str) -> bool:
    """Whether a Job is a child of the run: by its controller, with labels that name a step and an attempt."""
    labels = raw["metadata"].get("labels") or {}
    return (
        _has_controller(raw, KIND, run_uid)
        and labels.get(RUN_UID_LABEL) == run_uid
        and labels.get(STEP_LABEL) in _STEPS
        and labels.get(ATTEMPT_LABEL, "").isdecimal()
    )


def view_job(raw: Raw) -> JobView:
    """A Job of which `is_job_of` is true."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    return JobView(
        name=metadata["name"],
        uid=metadata["uid"],
        step=Step(metadata["labels"][STEP_LABEL]),
        attempt=int(metadata["labels"][ATTEMPT_LABEL]),
        spec_digest=spec_digest_of(raw),
        created=_time(metadata["creationTimestamp"]),
        is_deleting="deletionTimestamp" in metadata,
        is_suspended=bool(spec.get("suspend")),
        queue=metadata["labels"].get(KUEUE_QUEUE_LABEL, ""),
        active=status.get("active") or 0,
        succeeded=status.get("succeeded") or 0,
        failed=status.get("failed") or 0,
        completions=spec.get("completions") or 1,
        conditions=tuple(
            JobCondition(found["type"], found.get("reason") or "", found.get("message") or "")
            for found in status.get("conditions") or ()
            if found["status"] == "True"
        ),
    )


def spec_digest_of(raw: Raw) -> str:
    """The digest of the spec that a Job was created with; empty if it bears none."""
    return str((raw["metadata"].get("annotations") or {}).get(SPEC_DIGEST_ANNOTATION, ""))


def is_ours_to_adopt(raw: Raw, run_uid: str, spec_digest: str) -> bool:
    """Whether a Job that is there already is the one that was to be created."""
    return (
        _has_controller(raw, KIND, run_uid)
        and spec_digest_of(raw) == spec_digest
        and "deletionTimestamp" not in raw["metadata"]
    )


def is_pod_of(raw: Raw, run_uid: str) -> bool:
    """Whether a pod is that of a Job of the run, be the Job still there or not."""
    labels = raw["metadata"].get("labels") or {}
    return (
        labels.get(RUN_UID_LABEL) == run_uid
        and labels.get(STEP_LABEL) in _STEPS
        and _has_controller(raw, "Job")
    )


def view_pod(raw: Raw, gpu_resource: str = "") -> PodView:
    """A pod of which `is_pod_of` is true; `gpu_resource` is what the run's spec counts GPUs by."""
    metadata, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    conditions = {found["type"]: found for found in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    is_refused = scheduled.get("status") == "False"
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        job_name=next(owner["name"] for owner in metadata["ownerReferences"] if owner["kind"] == "Job"),
        step=Step(metadata["labels"][STEP_LABEL]),
        phase=status.get("phase") or "Pending",
        created=_time(metadata["creationTimestamp"]),
        ip=status.get("podIP") or "",
        is_deleting="deletionTimestamp" in metadata,
        is_scheduled=bool(spec.get("nodeName")),
        unscheduled_reason=(scheduled.get("reason") or "") if is_refused else "",
        unscheduled_message=(scheduled.get("message") or "") if is_refused else "",
        is_disrupted=conditions.get("DisruptionTarget", {}).get("status") == "True",
        ended=_end_of(status) if status.get("phase") in {"Succeeded", "Failed"} else None,
        gpus=_gpus_of(spec, gpu_resource),
        containers=tuple(_view_containers(spec, status)),
    )


def _view_containers(spec: Raw, status: Raw) -> Iterator[ContainerView]:
    states = {
        state["name"]: state
        for key in ("initContainerStatuses", "containerStatuses")
        for state in status.get(key) or ()
    }
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        yield _view_container(container, states.get(container["name"], {}))


def _view_container(container: Raw, status: Raw) -> ContainerView:
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    # A sidecar that was started again runs; why it ended before stands in its last state.
    ended = state.get("terminated") or (status.get("lastState") or {}).get("terminated") or {}
    return ContainerView(
        name=container["name"],
        image=container.get("image") or "",
        is_sidecar=container.get("restartPolicy") == "Always",
        is_running="running" in state,
        is_ready=bool(status.get("ready")),
        restarts=status.get("restartCount") or 0,
        waiting_reason=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason") or "",
        exit_message=ended.get("message") or "",
    )


def view_claim(raw: Raw) -> ClaimView:
    """A PersistentVolumeClaim; its access modes are those that it was bound with."""
    status = raw.get("status") or {}
    modes = status.get("accessModes") or raw["spec"].get("accessModes") or ()
    return ClaimView(raw["metadata"]["name"], tuple(modes), status.get("phase") or "Pending")


def claim_names(manifest: Raw) -> tuple[str, ...]:
    """The claims of a run's spec that its pods mount, each once; the spec may be wrong otherwise."""
    is_external = _at(manifest, ("spec", *_SERVING, "mode")) == "External"  # nobody mounts its cache
    places = [place for place in _CLAIM_PLACES if not (is_external and place[: len(_SERVING)] == _SERVING)]
    names = (_at(manifest, ("spec", *place, "claimName")) for place in places)
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def gpu_resource_of(manifest: Raw) -> str:
    """What the run's spec counts GPUs by; empty if it does not say."""
    found = _at(manifest, ("spec", "model", "serving", "gpuResource"))
    return found if isinstance(found, str) else ""


def silent_job(jobs: Iterable[JobView], pods: Iterable[PodView]) -> JobView | None:
    """The newest Job that should have pods and has none: why, only its Events tell."""
    with_pods = {pod.job_name for pod in pods}
    silent = [
        job
        for job in jobs
        if not (job.has_ended or job.is_deleting or job.is_suspended or job.name in with_pods)
    ]
    return max(silent, key=lambda job: job.created, default=None)


def view_job_events(raws: Iterable[Raw]) -> tuple[JobEvent, ...]:
    """Warning events of a Job, the newest first."""
    by_time = sorted(
        raws,
        key=lambda raw: (
            raw.get("lastTimestamp") or raw.get("eventTime") or raw["metadata"]["creationTimestamp"]
        ),
        reverse=True,
    )
    return tuple(JobEvent(raw.get("reason") or "", raw.get("message") or "") for raw in by_time)


def pods_to_ask(jobs: Iterable[JobView], pods: Iterable[PodView]) -> tuple[PodView, ...]:
    """The annotate pods that can tell the run's progress, by name."""
    at_work = {
        job.name for job in jobs if job.step is Step.ANNOTATE and not (job.has_ended or job.is_deleting)
    }
    running = (
        pod
        for pod in pods
        if pod.job_name in at_work
        and pod.phase == "Running"
        and pod.ip
        and not pod.is_deleting
        and any(part.is_running and not part.is_sidecar for part in pod.containers)
    )
    return tuple(sorted(running, key=lambda pod: pod.name))


def _has_controller(raw: Raw, kind: str, uid: str | None = None) -> bool:
    return any(
        owner.get("controller") and owner["kind"] == kind and uid in {None, owner["uid"]}
        for owner in raw["metadata"].get("ownerReferences") or ()
    )


def _gpus_of(spec: Raw, gpu_resource: str) -> int:
    count = 0
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        resources = container.get("resources") or {}
        requested = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        count += sum(int(amount) for name, amount in requested.items() if _is_gpu(name, gpu_resource))
    return count


def _is_gpu(name: str, gpu_resource: str) -> bool:
    """The spec may have named another when the pod was made; vendors put gpu, or mig, in the names."""
    return "/" in name and (name == gpu_resource or "gpu" in name or "/mig-" in name)


def _end_of(status: Raw) -> datetime | None:
    """When the last container ended; of a pod that never ran one (evicted before), its last transition."""
    ends = [
        ended["finishedAt"]
        for key in ("initContainerStatuses", "containerStatuses")
        for state in status.get(key) or ()
        if (ended := (state.get("state") or {}).get("terminated")) and ended.get("finishedAt")
    ]
    transitions = [
        found["lastTransitionTime"]
        for found in status.get("conditions") or ()
        if found.get("lastTransitionTime")
    ]
    return max(map(_time, ends or transitions), default=None)


def _at(value: Any, path: Iterable[str]) -> object:  # noqa: ANN401 - JSON of any shape
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
