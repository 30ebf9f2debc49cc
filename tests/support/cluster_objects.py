"""Objects as an API server gives them: of the shape that was read from Kubernetes 1.34."""

from collections.abc import Mapping
from typing import Any

UID = "93064214-e2fc-4488-8119-87283a7aeb0d"
JOB_UID = "5d0a6c0a-7f0f-4a7f-9a60-4a5c9a9d8f11"
NAMESPACE = "team-a"


def owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    api_version = "batch/v1" if kind == "Job" else "annotationrun.dev/v1alpha1"
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def raw_run(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {
            "name": "blocks",
            "namespace": NAMESPACE,
            "uid": UID,
            "generation": 3,
            "resourceVersion": "210",
            "creationTimestamp": "2026-11-21T15:55:28Z",
            **metadata,
        },
        "spec": {
            "source": {"path": "in", "volume": {"claimName": "datasets"}},
            "output": {"path": "out", "volume": {"claimName": "datasets"}},
            "staging": {"volume": {"claimName": "staging"}},
            "model": {"id": "m", "serving": {"cache": {"claimName": "models"}, "gpuResource": "amd.com/gpu"}},
        },
        "status": {"observedGeneration": -1},
    }


def raw_job(status: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "blocks-annotate-0a1b2c3d",
            "namespace": NAMESPACE,
            "uid": JOB_UID,
            "resourceVersion": "230",
            "creationTimestamp": "2026-11-21T15:56:00Z",
            "labels": {
                "annotationrun.dev/run-name": "blocks",
                "annotationrun.dev/run-uid": UID,
                "annotationrun.dev/step": "annotate",
                "annotationrun.dev/attempt": "2",
            },
            "annotations": {"annotationrun.dev/spec-digest": "d" * 64},
            "ownerReferences": [owner("AnnotationRun", "blocks", UID)],
            **metadata,
        },
        "spec": {"completions": 3, "parallelism": 3, "completionMode": "Indexed", "suspend": False},
        "status": dict(status or {"active": 3, "ready": 2, "uncountedTerminatedPods": {}}),
    }


def raw_pod(status: Mapping[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    running = {"running": {"startedAt": "2026-11-21T15:56:20Z"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "blocks-annotate-0a1b2c3d-0-x7k2p",
            "namespace": NAMESPACE,
            "uid": "ab3ec4b6-6a38-4a0e-8a64-3f1f2a2f7c55",
            "resourceVersion": "241",
            "creationTimestamp": "2026-11-21T15:56:01Z",
            "labels": {
                "annotationrun.dev/run-name": "blocks",
                "annotationrun.dev/run-uid": UID,
                "annotationrun.dev/step": "annotate",
                "batch.kubernetes.io/job-name": "blocks-annotate-0a1b2c3d",
            },
            "ownerReferences": [owner("Job", "blocks-annotate-0a1b2c3d", JOB_UID)],
            **metadata,
        },
        "spec": {
            "nodeName": "gpu-node-1",
            "initContainers": [
                {
                    "name": "server",
                    "image": "vllm/vllm-openai:v1",
                    "restartPolicy": "Always",
                    "resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "2"}},
                }
            ],
            "containers": [{"name": "worker", "image": "worker:1", "resources": {"requests": {"cpu": "1"}}}],
        },
        "status": dict(
            status
            or {
                "phase": "Running",
                "podIP": "10.244.0.7",
                "conditions": [{"type": "PodScheduled", "status": "True"}],
                "initContainerStatuses": [
                    {"name": "server", "ready": True, "restartCount": 0, "state": running}
                ],
                "containerStatuses": [{"name": "worker", "ready": True, "restartCount": 0, "state": running}],
            }
        ),
    }
