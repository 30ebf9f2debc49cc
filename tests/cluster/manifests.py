"""The runs that the cluster's tests apply, and the same run by hand in a pod."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.images import Images
from tests.cluster.workspace import MOUNT, USER, Workspace, restricted_pod, wait_until

SPEC = {
    "source": {"path": "in", "volume": {"claimName": "data"}},
    "output": {"path": "out", "volume": {"claimName": "data"}},
    "modules": {
        "plan": {"taskRephrasings": 2},
        "interjections": {"minTimeSeconds": 1.0},
        "vqa": {"emissionHz": 0.5},
    },
    "staging": {"volume": {"claimName": "data", "subPath": "staging"}},
    "workers": {
        "parallelism": 3,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
    },
}


def manifest_of(name: str, images: Images, latency_seconds: float = 0.0, **spec: Any) -> dict[str, Any]:
    """A run with the demo's model server as sidecar."""
    serving = {
        "image": images.demo_vlm,
        "gpus": 0,
        "args": [f"--demo-latency-seconds={latency_seconds}"],
        "sharedMemory": "64Mi",
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    }
    model = {"id": "demo-vlm", "serving": serving}
    return {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {"name": name},
        "spec": {**copy.deepcopy(SPEC), "model": model, **spec},
    }


def run_in_a_pod(space: Workspace, images: Images, manifest: Mapping[str, Any], claim: str) -> None:
    """`annotationrun run` of the same manifest in the worker's image, beside the demo's model server."""
    text = json.dumps(manifest)
    server = {
        "name": "vllm",
        "image": images.demo_vlm,
        "restartPolicy": "Always",
        "args": ["demo-vlm", "--host=127.0.0.1", "--port=8000"],
    }
    script = (
        'printf %s "$MANIFEST" > /tmp/manifest.json\n'
        "until python -c 'import urllib.request; urllib.request.urlopen(\"http://127.0.0.1:8000/v1/models\")'\n"
        "do sleep 1; done 2>/dev/null\n"
        "exec annotationrun run -f /tmp/manifest.json --endpoint http://127.0.0.1:8000/v1"
        f" --volume data={MOUNT} --staging /tmp/staging"
    )
    worker = {"name": "worker", "command": ["sh", "-c", script], "env": [{"name": "MANIFEST", "value": text}]}
    space.apply(restricted_pod("by-hand", images.worker, [worker], claim, initContainers=[server]))
    wait_until(
        lambda: space.get("pod", "by-hand")["status"]["phase"] in ("Succeeded", "Failed"),
        300,
        lambda: space.kubectl("logs", "by-hand", "--all-containers"),
    )
    assert space.get("pod", "by-hand")["status"]["phase"] == "Succeeded", space.kubectl("logs", "by-hand")


def start_server(space: Workspace, images: Images, latency_seconds: float = 0.0) -> str:
    """Start the demo's server apart from the runs' pods: its log tells all that was asked; its base URL."""
    args = ["demo-vlm", "--host=0.0.0.0", "--port=8000", f"--demo-latency-seconds={latency_seconds}"]
    return serve(space, images.demo_vlm, args)


def serve(
    space: Workspace, image: str, args: Sequence[str], within_seconds: int = 120, **container: Any
) -> str:
    """Start the pod `vlm` with a model server; its base URL once it is ready."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "vlm"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "vlm",
                    "image": image,
                    "args": args,
                    "securityContext": security,
                    "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
                    **container,
                }
            ],
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        },
    }
    space.apply(pod)
    space.kubectl("wait", "pod/vlm", "--for=condition=Ready", f"--timeout={within_seconds}s")
    return f"http://{space.get('pod', 'vlm')['status']['podIP']}:8000/v1"


def asked(space: Workspace) -> list[dict[str, Any]]:
    """All that the server of `start_server` answered, in order."""
    lines = space.kubectl("logs", "vlm").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def external(name: str, url: str, **spec: Any) -> dict[str, Any]:
    """A run that asks a server that is there."""
    model = {"id": "demo-vlm", "serving": {"mode": "External", "endpoints": [url]}}
    return {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {"name": name},
        "spec": {**copy.deepcopy(SPEC), "model": model, **spec},
    }
