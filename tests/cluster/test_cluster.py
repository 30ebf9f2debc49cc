"""The cluster itself, and that the images run on it as the strictest standard of pod security wants them."""

from collections.abc import Sequence
from typing import Any

import pytest
from tests.cluster.client import CommandError
from tests.cluster.images import Images
from tests.cluster.waiting import POD_STARTS_WITHIN_SECONDS
from tests.cluster.workspace import Workspace

SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.fixture
def restricted(namespaces) -> Workspace:
    """A namespace that enforces `restricted`, and holds nothing."""
    return namespaces("smoke", claims=())


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
        "metadata": {"name": name},
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


def test_the_nodes_are_ready(cluster):
    ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    assert set(cluster.kubectl("get", "nodes", "--output", ready).split()) == {"True"}


def test_the_workers_image_runs_as_a_restricted_pod(restricted, images: Images):
    restricted.apply(pod("help", images.worker, args=["--help"]))
    log = restricted.wait_for_end("help")
    assert "Usage: annotationrun" in log
    assert "Annotate the manifest's dataset" in log


def test_the_workers_image_annotates_and_validates_a_dataset(restricted, images: Images):
    """`demo` decodes videos, asks a model, writes and validates parquet: all that the image has to have."""
    ffmpeg = "grep -w ^ffmpeg /usr/share/doc/annotationrun/debian-packages | cut -f 1"
    pyav = "grep ^av- /usr/share/doc/annotationrun/python-packages | cut -d - -f 1"
    script = f"id -u && id -g && {ffmpeg} && {pyav} && exec annotationrun demo /tmp/demo"
    restricted.apply(pod("demo", images.worker, ["sh", "-c", script]))
    lines = restricted.wait_for_end("demo").splitlines()
    assert lines[:4] == ["65532", "65532", "ffmpeg", "av"]
    assert any("subtask" in line for line in lines)


def test_the_demo_model_takes_the_arguments_of_vllm(restricted, images: Images):
    args = ["demo-vlm", "--host=0.0.0.0", "--port=8000", "--max-model-len", "4096", "--enable-prefix-caching"]
    restricted.apply(pod("model", images.demo_vlm, args=args))
    address = restricted.wait_until_ready("model", POD_STARTS_WITHIN_SECONDS)["status"]["podIP"]
    # Another pod asks by the pod's address, again until the server listens.
    ask = "import sys, urllib.request as request; print(request.urlopen(sys.argv[1]).read())"
    script = 'until python -c "$0" "$1"; do sleep 1; done'
    url = f"http://{address}:8000/v1/models"
    restricted.apply(pod("ask", images.worker, ["sh", "-c", script, ask, url]))
    assert '"id": "demo-vlm"' in restricted.wait_for_end("ask")


def test_a_pod_that_may_be_root_is_refused(restricted, images: Images):
    manifest = pod("root", images.worker, args=["--help"], allowPrivilegeEscalation=True)
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        restricted.apply(manifest)
