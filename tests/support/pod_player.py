"""Plays what the scheduler and the kubelet do with pods; the Job controller is a real one."""

from typing import Any

from tests.support.job_player import ENDED, STARTED, STEP_LABEL, JobPlayer
from tests.support.kube_api import PODS

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.labels import Step
from annotationrun_operator.manifests.pods import WORKER_CONTAINER

NODE = "played"


class PodPlayer(JobPlayer):
    """Pods run as soon as they are there; those of steps that are not `held` end well at once."""

    def turn(self) -> None:
        """Bind pods, run them, end them; those that are being deleted end as a worker does on SIGTERM."""
        for pod in self.api.items(f"{PODS.format(self.namespace)}?labelSelector={STEP_LABEL}"):
            self._play(pod)

    def _play(self, pod: dict[str, Any]) -> None:
        metadata, phase = pod["metadata"], pod["status"]["phase"]
        path = f"{PODS.format(self.namespace)}/{metadata['name']}"
        step = Step(metadata["labels"][STEP_LABEL])
        if "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
            self.api.create(f"{path}/binding", {"metadata": {"name": metadata["name"]}, "target": target})
        if phase == "Pending":
            self._tell(path, "Running", {"running": {"startedAt": STARTED}})
        if "deletionTimestamp" in metadata:
            if phase not in {"Succeeded", "Failed"}:
                self._tell(path, "Failed", _ended(ExitCode.INTERRUPTED, ""))
            self.api.delete(path, gracePeriodSeconds=0)
        elif phase in {"Pending", "Running"} and step not in self.held:
            self._tell(path, "Succeeded", _ended(ExitCode.OK, self.messages[step]))

    def _tell(self, path: str, phase: str, state: dict[str, Any]) -> None:
        container = {
            "name": WORKER_CONTAINER,
            "image": "worker:1",
            "imageID": "",
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        self.api.patch(f"{path}/status", {"status": {"phase": phase, "containerStatuses": [container]}})


def _ended(code: ExitCode, message: str) -> dict[str, Any]:
    return {
        "terminated": {
            "exitCode": int(code),
            "reason": "Error" if code else "Completed",
            "message": message,
            "startedAt": STARTED,
            "finishedAt": ENDED,
        }
    }
