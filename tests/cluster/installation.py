"""The chart, installed on a cluster by helm."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from tests.cluster.client import ConnectedClient
from tests.cluster.images import Images
from tests.support.helm import CHART, helm_program
from tests.support.kube_api import PODS

RELEASE, NAMESPACE = "annotationrun", "annotation-system"
SMALL: Final = {"requests": {"cpu": "50m", "memory": "128Mi"}}
JOBS: Final = {"resources": dict.fromkeys(("plan", "worker", "merge", "sidecar"), SMALL)}
"""The chart's `jobs`; a test that gives more has to give these too."""


def image_values(image: str) -> dict[str, Any]:
    """The values of an image of the chart."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


@dataclass(frozen=True)
class Installation:
    """A release of the chart."""

    client: ConnectedClient
    images: Images

    def install(self, **values: Any) -> None:
        """Install or upgrade, and wait until the operator is ready."""
        given = {
            "image": image_values(self.images.operator),
            "worker": {"image": image_values(self.images.worker)},
            "vllm": {"image": image_values(self.images.demo_vlm)},
            "jobs": JOBS,
            "resources": SMALL,
            **values,
        }
        self._helm(
            "upgrade", "--install", RELEASE, CHART, "--create-namespace", "--wait", "--timeout=400s",
            "--values=-", stdin=yaml.safe_dump(given),
        )  # fmt: skip

    def uninstall(self) -> None:
        """Remove the release."""
        self._helm("uninstall", RELEASE, "--wait", "--timeout=300s")

    def operator_log(self) -> str:
        """The whole log of the operator's pod."""
        return self.kubectl("logs", f"deployment/{self.deployment}", "--tail=-1")

    @property
    def deployment(self) -> str:
        """Name of the operator's Deployment."""
        return self.kubectl("get", "deployments", "--output=jsonpath={.items[0].metadata.name}")

    def pods(self) -> list[dict[str, Any]]:
        """The operator's pods."""
        return self.client.api.items(PODS.format(NAMESPACE))

    def delete_operator_pod(self) -> None:
        """Delete the operator's pod; the Deployment makes another."""
        self.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=300s")

    def operator_restarts(self) -> int:
        """How often the operator's containers were started again; a pod that is being deleted is no more."""
        pods = [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]
        statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
        return sum(int(status["restartCount"]) for status in statuses)

    def patch_operator(self, command: Sequence[str]) -> None:
        """Start the operator with another command, and wait until it is ready."""
        containers = [{"name": "operator", "command": list(command)}]
        change = {"spec": {"template": {"spec": {"containers": containers}}}}
        self.kubectl("patch", "deployment", self.deployment, f"--patch={json.dumps(change)}")
        self.kubectl("rollout", "status", f"deployment/{self.deployment}", "--timeout=300s")

    def kubectl(self, *arguments: str | Path) -> str:
        """kubectl in the namespace of the release."""
        return self.client.kubectl(f"--namespace={NAMESPACE}", *arguments)

    def _helm(self, *arguments: str | Path, stdin: str = "") -> None:
        command = [
            helm_program(), f"--kubeconfig={self.client.kubeconfig}", f"--namespace={NAMESPACE}", *arguments
        ]  # fmt: skip
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=500)
        if done.returncode:
            pods = self.kubectl("get", "pods", "--output=wide")
            raise AssertionError(f"helm {arguments[0]} failed: {done.stderr}\n{pods}{self._said()}")

    def _said(self) -> str:
        logs = self.kubectl("logs", "--selector=app.kubernetes.io/instance", "--tail=50")
        return self.kubectl("describe", "pods") + logs
