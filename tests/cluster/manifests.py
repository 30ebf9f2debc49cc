"""The runs that the cluster's tests apply, and the same run by hand in a pod."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster import held_server
from tests.cluster.images import Images
from tests.cluster.node_files import USER
from tests.cluster.waiting import POD_STARTS_WITHIN_SECONDS
from tests.cluster.workspace import MOUNT, Workspace, readiness_probe, restricted_pod

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


NOT_LOOKED_UP = "0" * 40
"""A commit: of the demo's model there is no repository on any Hub."""


def manifest_of(name: str, images: Images, latency_seconds: float = 0.0, **spec: Any) -> dict[str, Any]:
    """A run with the demo's model server as sidecar."""
    serving = {
        "image": images.demo_vlm,
        "gpus": 0,
        "args": [f"--demo-latency-seconds={latency_seconds}"],
        "sharedMemory": "64Mi",
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    }
    model = {"id": "demo-vlm", "revision": NOT_LOOKED_UP, "serving": serving}
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
    pod = restricted_pod("by-hand", images.worker, [worker], claim, initContainers=[server])
    space.create("pods", pod)
    space.wait_for_end("by-hand")


def start_server(space: Workspace, images: Images, latency_seconds: float = 0.0) -> str:
    """Start the demo's server apart from the runs' pods: its log tells all that was asked; its base URL."""
    args = ["demo-vlm", "--host=0.0.0.0", "--port=8000", f"--demo-latency-seconds={latency_seconds}"]
    program = Path(held_server.__file__).read_text(encoding="utf-8")
    return serve(space, images.demo_vlm, args, command=["python", "-c", program, "serve"])


def hold_answers(space: Workspace) -> None:
    """Have the server of `start_server` give no more than `held_server.ANSWERS`, until `release_answers`."""
    space.kubectl("exec", "vlm", "--", "touch", str(held_server.HOLD))


def release_answers(space: Workspace) -> None:
    """Have it answer all that is asked."""
    space.kubectl("exec", "vlm", "--", "rm", str(held_server.HOLD))


def serve(
    space: Workspace,
    image: str,
    args: Sequence[str],
    within_seconds: float = POD_STARTS_WITHIN_SECONDS,
    **container: Any,
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
                    "readinessProbe": readiness_probe("/health", 8000),
                    "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
                    **container,
                }
            ],
            "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
        },
    }
    space.create("pods", pod)
    return f"http://{space.wait_until_ready('vlm', within_seconds)['status']['podIP']}:8000/v1"


def asked(space: Workspace) -> list[dict[str, Any]]:
    """All that the server of `start_server` answered, in order."""
    lines = space.kubectl("logs", "vlm").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def external(name: str, url: str, **spec: Any) -> dict[str, Any]:
    """A run that asks a server that is there."""
    model = {
        "id": "demo-vlm",
        "revision": NOT_LOOKED_UP,  # as the sidecar's, so that both come to the same record
        "serving": {"mode": "External", "endpoints": [url]},
    }
    return {
        "apiVersion": "annotationrun.dev/v1alpha1",
        "kind": "AnnotationRun",
        "metadata": {"name": name},
        "spec": {**copy.deepcopy(SPEC), "model": model, **spec},
    }
