"""The cluster itself, and that the images run on it as the strictest standard of pod security wants them."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.cluster.client import Client, CommandError
from tests.cluster.images import Images

NAMESPACE = "smoke"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture(scope="module")
def restricted(cluster: Client) -> Iterator[Client]:
    """The cluster with a namespace that enforces `restricted`."""
    metadata = {"name": NAMESPACE, "labels": RESTRICTED}
    apply(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def apply(cluster: Client, manifest: dict[str, Any]) -> None:
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(manifest))


def pod(
    name: str, image: str, command: Sequence[str] = (), *, args: Sequence[str] = (), **security: Any
) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": image,
        "args": args,
        "securityContext": {**SECURITY, **security},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if command:
        container["command"] = command
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            # No user is set: the image's own has to be one that is not root.
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [container],
        },
    }


def wait_for_end(cluster: Client, name: str) -> str:
    """The log of a pod that ends well."""
    where = ["--namespace", NAMESPACE, f"pod/{name}"]
    try:
        cluster.kubectl("wait", *where, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    except CommandError as error:
        pytest.fail(f"{error}\n{cluster.kubectl('describe', *where)}\n{cluster.kubectl('logs', *where)}")
    return cluster.kubectl("logs", *where)


def test_the_nodes_are_ready(cluster):
    ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    assert set(cluster.kubectl("get", "nodes", "--output", ready).split()) == {"True"}


def test_the_workers_image_runs_as_a_restricted_pod(restricted, images: Images):
    apply(restricted, pod("help", images.worker, args=["--help"]))
    log = wait_for_end(restricted, "help")
    assert "Usage: annotationrun" in log
    assert "Annotate the manifest's dataset" in log


def test_the_workers_image_annotates_and_validates_a_dataset(restricted, images: Images):
    """`demo` decodes videos, asks a model, writes and validates parquet: all that the image has to have."""
    tensor = "python -c 'import torch; print(torch.zeros(1))'"
    script = f"id -u && id -g && {tensor} && exec annotationrun demo /tmp/demo"
    apply(restricted, pod("demo", images.worker, ["sh", "-c", script]))
    lines = wait_for_end(restricted, "demo").splitlines()
    assert lines[:3] == ["65532", "65532", "tensor([0.])"]
    assert any("subtask" in line for line in lines)


def test_the_demo_model_takes_the_arguments_of_vllm(restricted, images: Images):
    args = ["demo-vlm", "--host=0.0.0.0", "--port=8000", "--max-model-len", "4096", "--enable-prefix-caching"]
    apply(restricted, pod("model", images.demo_vlm, args=args))
    where = ["--namespace", NAMESPACE, "pod/model"]
    restricted.kubectl("wait", *where, "--for=condition=Ready", "--timeout=120s")
    address = restricted.kubectl("get", *where, "--output=jsonpath={.status.podIP}")
    # Another pod asks by the pod's address, again until the server listens.
    ask = "import sys, urllib.request as request; print(request.urlopen(sys.argv[1]).read())"
    script = 'until python -c "$0" "$1"; do sleep 1; done'
    url = f"http://{address}:8000/v1/models"
    apply(restricted, pod("ask", images.worker, ["sh", "-c", script, ask, url]))
    assert '"id": "demo-vlm"' in wait_for_end(restricted, "ask")
    restricted.kubectl("delete", *where, "--timeout=60s")


def test_a_pod_that_may_be_root_is_refused(restricted, images: Images):
    manifest = pod("root", images.worker, args=["--help"], allowPrivilegeEscalation=True)
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        apply(restricted, manifest)
