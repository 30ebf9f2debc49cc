"""A namespace of a cluster with a volume and a dataset on it, and the runs that are applied there."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tests.cluster.client import CommandError, ConnectedClient
from tests.cluster.node_files import USER, NodeFiles
from tests.cluster.waiting import wait_until, wait_until_ready
from tests.support.kube_api import JOBS, PODS, RUNS

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SESSION_LABEL: Final = "annotationrun-tests-session"
MOUNT = "/volumes/data"
BOUND_WITHIN_SECONDS: Final = 120.0
RUN_SECONDS: Final = 600.0
_CORE = "/api/v1/namespaces/{}/"
_PATHS: Final[Mapping[str, str]] = {
    "annotationruns": RUNS,
    "events": f"{_CORE}events",
    "jobs": JOBS,
    "persistentvolumeclaims": f"{_CORE}persistentvolumeclaims",
    "pods": PODS,
    "resourcequotas": f"{_CORE}resourcequotas",
    "serviceaccounts": f"{_CORE}serviceaccounts",
}
_VOLUMES = "/api/v1/persistentvolumes"


def readiness_probe(path: str, port: int) -> dict[str, Any]:
    """Of a container that serves HTTP; a busy machine's answer may take its time."""
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "timeoutSeconds": 10}


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

    client: ConnectedClient
    namespace: str
    files: NodeFiles
    worker_image: str
    volumes: list[str] = field(default_factory=list)
    """Names of its PersistentVolumes, which are of no namespace."""

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.client.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Apply objects with kubectl, as users do."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def create(self, resource: str, manifest: Mapping[str, Any]) -> None:
        """Create an object of a resource, as in ``pods``."""
        self.client.api.create(self._path(resource), manifest)

    def get(self, resource: str, name: str) -> dict[str, Any]:
        """An object of a resource, as in ``pods``."""
        found: dict[str, Any] = self.client.api.get(f"{self._path(resource)}/{name}")
        return found

    def patch(self, resource: str, name: str, change: Mapping[str, Any]) -> None:
        """Merge a change into an object."""
        self.client.api.patch(f"{self._path(resource)}/{name}", change)

    def list(self, resource: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a resource, as in ``pods``."""
        return self.client.api.items(f"{self._path(resource)}?labelSelector={quote(selector)}")

    def _path(self, resource: str) -> str:
        return _PATHS[resource].format(self.namespace)

    def make(self, claims: Sequence[str] = ("data",)) -> None:
        """Make the namespace, which enforces the restricted standard, and volumes that its pods can write.

        Pods can be made in it at once: what they refer to is there, and bound.
        """
        labels = {**RESTRICTED, SESSION_LABEL: self.files.session}
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.namespace, "labels": labels},
        }
        self.client.api.create("/api/v1/namespaces", namespace)
        for claim in claims:
            self.make_volume(claim)
        wait_until(self._has_account, BOUND_WITHIN_SECONDS, lambda: "there is no service account `default`")

    def _has_account(self) -> bool:
        return any(found["metadata"]["name"] == "default" for found in self.list("serviceaccounts"))

    def make_volume(self, claim: str, mode: str = "ReadWriteMany") -> None:
        """A folder of the node as a volume, and a claim that is bound to it.

        A scheduler that meets a pod before its claim is bound may leave it aside for minutes.
        """
        name = f"{self.namespace}-{claim}"
        self.files.make_volume(name)
        common = {"accessModes": [mode], "storageClassName": ""}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **common,
                "capacity": {"storage": "1Gi"},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.namespace, "name": claim},
                "hostPath": {"path": self.files.folder_of(name)},
            },
        }
        wanted = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim},
            "spec": {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
        }
        self.client.api.create(_VOLUMES, volume)
        self.volumes.append(name)
        self.create("persistentvolumeclaims", wanted)
        wait_until(
            lambda: self._phase("persistentvolumeclaims", claim) == "Bound",
            BOUND_WITHIN_SECONDS,
            lambda: self.kubectl("describe", "pvc", claim),
        )

    def _phase(self, resource: str, name: str) -> str:
        return str(self.get(resource, name)["status"].get("phase"))

    def remove(self) -> None:
        """Have the namespace and its volumes removed, without waiting for it."""
        self.client.api.delete(f"/api/v1/namespaces/{self.namespace}")
        for volume in self.volumes:
            self.client.api.delete(f"{_VOLUMES}/{volume}")

    def put_folder(self, folder: Path, place: str, claim: str = "data") -> None:
        """Copy a folder onto a volume."""
        self.files.put_folder(folder, f"{self.namespace}-{claim}", place)

    def hashes(self, place: str, claim: str = "data") -> str:
        """SHA-256 of every file of a folder on a volume, by path, as lines."""
        return self.shell(f"cd {place} && find . -type f -print0 | sort -z | xargs -0 sha256sum", claim)

    def shell(self, script: str, claim: str = "data") -> str:
        """What a script prints that runs in the volume's root."""
        return self.files.shell(f"{self.namespace}-{claim}", script)

    def wait_until_ready(self, pod: str, within_seconds: float) -> dict[str, Any]:
        """Wait until a pod is ready; the pod."""
        return wait_until_ready(self.client, self.namespace, pod, within_seconds)

    def wait_for_end(self, pod: str, within_seconds: float = RUN_SECONDS) -> str:
        """Wait until a pod has ended well; its log."""
        wait_until(
            lambda: self._phase("pods", pod) in {"Succeeded", "Failed"},
            within_seconds,
            lambda: self.kubectl("describe", "pod", pod),
        )
        log = self.kubectl("logs", pod, "--all-containers")
        assert self._phase("pods", pod) == "Succeeded", log
        return log

    def wait_for(
        self, run: str, holds: Callable[[Mapping[str, Any]], bool], within_seconds: float
    ) -> dict[str, Any]:
        """Wait until a run's object is as wanted; the object."""
        last: dict[str, Any] = {}

        def look() -> bool:
            last.update(self.get("annotationruns", run))
            return holds(last)

        wait_until(look, within_seconds, lambda: self.describe(run))
        return last

    def wait_complete(self, run: str, within_seconds: float = RUN_SECONDS) -> dict[str, Any]:
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
