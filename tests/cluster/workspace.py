"""A namespace of a cluster with a volume and a dataset on it, and the runs that are applied there.

It works on any cluster: files go in and out through a pod, not through this machine's file system.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.client import Client, CommandError

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
NODE_FOLDER = "/var/lib/annotationrun-tests"
MOUNT = "/volumes/data"
FILES_POD = "files"
USER = 65532
POLL_SECONDS = 1.0


class TimeoutExceededError(AssertionError):
    """What was waited for did not come; the text tells how the run and its children stand."""


def restricted_pod(
    name: str, image: str, containers: Sequence[Mapping[str, Any]], claim: str = "data", **spec: Any
) -> dict[str, Any]:
    """A pod that the restricted standard admits, its containers with the claim at MOUNT and /tmp to write."""
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = [{"name": "data", "mountPath": MOUNT}, {"name": "tmp", "mountPath": "/tmp"}]

    def whole(container: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": image, "securityContext": security, "volumeMounts": mounts, **container}

    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
                {"name": "tmp", "emptyDir": {}},
            ],
            **spec,
            "containers": [whole(container) for container in containers],
            "initContainers": [whole(container) for container in spec.get("initContainers", [])],
        },
    }


@dataclass
class Workspace:
    """A namespace, made for one test."""

    client: Client
    namespace: str
    worker_image: str

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.client.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects, as JSON."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "--output=json"))
        return found

    def list(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind."""
        words = [f"--selector={selector}"] if selector else []
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "--output=json", *words))["items"]
        return items

    def make(self, claims: Sequence[str] = ("data",)) -> None:
        """Make the namespace, which enforces the restricted standard, and volumes that its pods can write."""
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": RESTRICTED},
        }
        self.client.kubectl("apply", "-f", "-", stdin=json.dumps(namespace))
        for claim in claims:
            self.make_volume(claim)

    def make_volume(self, claim: str, mode: str = "ReadWriteMany") -> None:
        """A folder of the node as a volume, and a claim that is bound to it."""
        folder, name = f"{NODE_FOLDER}/{self.namespace}/{claim}", f"{self.namespace}-{claim}"
        self._as_root(
            f"make-{claim}",
            f"mkdir -p /node/{self.namespace}/{claim} && chmod 0777 /node/{self.namespace}/{claim}",
        )
        common = {"accessModes": [mode], "storageClassName": ""}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    **common,
                    "capacity": {"storage": "1Gi"},
                    "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {"namespace": self.namespace, "name": claim},
                    "hostPath": {"path": folder},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim},
                "spec": {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
            },
        )

    def remove(self) -> None:
        """Have the namespace and its volumes removed, without waiting for it."""
        volumes = [
            found["metadata"]["name"]
            for found in json.loads(self.client.kubectl("get", "pv", "--output=json"))["items"]
            if found["metadata"]["name"].startswith(f"{self.namespace}-")
        ]
        self.client.kubectl("delete", "namespace", self.namespace, "--wait=false")
        if volumes:
            self.client.kubectl("delete", "pv", *volumes, "--wait=false")

    def remove_files(self) -> None:
        """Remove the files of all namespaces from the node, when their pods are gone."""
        self._as_root("remove", "rm -rf /node/*")

    def _as_root(self, name: str, script: str) -> None:
        """Run a script as root on the node's folder; pods of the namespace itself may not."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{self.namespace}-{name}"},
            "spec": {
                "restartPolicy": "Never",
                "volumes": [{"name": "node", "hostPath": {"path": NODE_FOLDER, "type": "DirectoryOrCreate"}}],
                "containers": [
                    {
                        "name": "root",
                        "image": self.worker_image,
                        "command": ["sh", "-c", script],
                        "securityContext": {"runAsUser": 0},
                        "volumeMounts": [{"name": "node", "mountPath": "/node"}],
                    }
                ],
            },
        }
        path = pod["metadata"]["name"]
        self.client.kubectl("--namespace=default", "apply", "-f", "-", stdin=json.dumps(pod))
        phase = "jsonpath={.status.phase}"
        wait_until(
            lambda: (
                self.client.kubectl("--namespace=default", "get", "pod", path, "--output", phase)
                == "Succeeded"
            ),
            120,
            lambda: f"pod {path} does not end well",
        )
        self.client.kubectl("--namespace=default", "delete", "pod", path, "--wait=true")

    def put_folder(self, folder: Path, place: str, claim: str = "data") -> None:
        """Copy a folder onto a volume."""
        pod = self._files_pod(claim)
        self.kubectl("cp", folder, f"{pod}:{MOUNT}/{place}")

    def hashes(self, place: str, claim: str = "data") -> str:
        """SHA-256 of every file of a folder on a volume, by path, as lines."""
        return self.shell(f"cd {place} && find . -type f -print0 | sort -z | xargs -0 sha256sum", claim)

    def shell(self, script: str, claim: str = "data") -> str:
        """What a script prints that runs in the volume's root."""
        return self.kubectl("exec", self._files_pod(claim), "--", "sh", "-c", f"cd {MOUNT} && {script}")

    def _files_pod(self, claim: str) -> str:
        name = f"{FILES_POD}-{claim}"
        try:
            self.get("pod", name)
        except CommandError:
            container = {"name": "files", "command": ["sleep", "infinity"]}
            self.apply(restricted_pod(name, self.worker_image, [container], claim))
            self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=280s")
        return name

    def wait_for(
        self, run: str, holds: Callable[[Mapping[str, Any]], bool], within_seconds: float
    ) -> dict[str, Any]:
        """Wait until a run's object is as wanted; the object."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.update(self.get("annotationrun", run))
            return holds(last)

        wait_until(look, within_seconds, lambda: self.describe(run))
        return last

    def wait_complete(self, run: str, within_seconds: float = 300) -> dict[str, Any]:
        """Wait until a run is complete; fails at once if it fails."""

        def is_over(found: Mapping[str, Any]) -> bool:
            assert not condition_holds(found, "Failed"), self.describe(run)
            return condition_holds(found, "Complete")

        return self.wait_for(run, is_over, within_seconds)

    def describe(self, run: str) -> str:
        """How a run and its children stand, for a failure's message."""
        words = []
        for command in (
            ("get", "annotationrun", run, "--output=yaml"),
            ("get", "jobs,pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            words.append(self.kubectl(*command))
        for pod in self.list("pods", f"annotationrun.dev/run-name={run}"):
            name = pod["metadata"]["name"]
            try:
                words.append(f"--- {name}\n" + self.kubectl("logs", name, "--all-containers", "--tail=30"))
            except CommandError as error:
                words.append(str(error))
        return "\n".join(words)


def condition_holds(run: Mapping[str, Any], kind: str) -> bool:
    """Whether a condition is True and about the run's current generation."""
    return any(
        found["type"] == kind
        and found["status"] == "True"
        and found["observedGeneration"] == run["metadata"]["generation"]
        for found in run.get("status", {}).get("conditions", [])
    )


def wait_until(holds: Callable[[], bool], within_seconds: float, tell: Callable[[], str]) -> None:
    """Wait until something holds.

    Raises:
        TimeoutExceededError: it did not; with what ``tell`` says.
    """
    deadline = time.monotonic() + within_seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutExceededError(f"not within {within_seconds:.0f} s\n{tell()}")
        time.sleep(POLL_SECONDS)
