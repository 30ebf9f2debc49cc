"""The files of the volumes of a session, which lie in a folder of the node.

They are made, read and changed in one pod, so that a test need not start one of its own for it: this works on
any cluster of one node, whether the node is this machine or not.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster.client import ConnectedClient
from tests.cluster.waiting import wait_until_ready

NODE_FOLDER: Final = "/var/lib/annotationrun-tests"
MOUNT: Final = "/node"
USER: Final = 65532
"""Of the images, and of all pods of the tests."""
_NAMESPACE: Final = "default"


@dataclass(frozen=True)
class NodeFiles:
    """A session's folder of the node, by its pod."""

    client: ConnectedClient
    session: str

    @property
    def pod(self) -> str:
        return f"node-files-{self.session}"

    @property
    def _folder(self) -> str:
        """Of the session, in the pod."""
        return f"{MOUNT}/{self.session}"

    def folder_of(self, volume: str) -> str:
        """Where the node has the files of a volume."""
        return f"{NODE_FOLDER}/{self.session}/{volume}"

    def make_volume(self, volume: str) -> None:
        """Make the folder of a volume, which everybody may write."""
        self._exec("root", f"mkdir -p {self._folder}/{volume} && chmod 0777 {self._folder}/{volume}")

    def shell(self, volume: str, script: str) -> str:
        """What a script prints that runs in a volume's root, as the user of all pods."""
        return self._exec("user", f"cd {self._folder}/{volume} && {script}")

    def put_folder(self, folder: Path, volume: str, place: str) -> None:
        """Copy a folder, or a file, onto a volume."""
        target = f"{_NAMESPACE}/{self.pod}:{self._folder}/{volume}/{place}"
        self.client.kubectl("cp", "--container=user", folder, target)

    def _exec(self, container: str, script: str) -> str:
        where = (f"--namespace={_NAMESPACE}", "exec", self.pod, f"--container={container}")
        return self.client.kubectl(*where, "--", "sh", "-c", script)

    def _manifest(self, image: str) -> dict[str, Any]:
        def container(name: str, user: int) -> dict[str, Any]:
            return {
                "name": name,
                "image": image,
                "command": ["sleep", "infinity"],
                "securityContext": {"runAsUser": user, "runAsGroup": user},
                "volumeMounts": [{"name": "node", "mountPath": MOUNT}],
            }

        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.pod},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "volumes": [{"name": "node", "hostPath": {"path": NODE_FOLDER, "type": "DirectoryOrCreate"}}],
                "containers": [container("root", 0), container("user", USER)],
            },
        }

    @contextlib.contextmanager
    def running(self, image: str) -> Iterator[None]:
        """Have the pod there; in the end the files are removed, when nobody uses them any more."""
        pods = f"/api/v1/namespaces/{_NAMESPACE}/pods"
        self.client.api.create(pods, self._manifest(image))
        try:
            wait_until_ready(self.client, _NAMESPACE, self.pod)
            yield
            self._exec("root", f"rm -rf {self._folder}")
        finally:
            self.client.api.delete(f"{pods}/{self.pod}")
