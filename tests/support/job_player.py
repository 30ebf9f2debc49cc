"""Plays what the Job controller, the scheduler and the kubelet do, where there is none of them.

Each Job gets a pod that ends well at once and tells what a step's pod tells; pods whose Job is gone are
deleted.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.support.kube_api import JOBS, PODS, KubeApi

from annotationrun_api.labels import Step
from annotationrun_api.step_results import MergeOutcome, PlanResult, PrefetchResult, write_result
from annotationrun_operator.manifests.pods import WORKER_CONTAINER

PLAN, MERGED, COMMIT = "ab" * 32, "cd" * 32, "ef" * 20
EPISODES = 6
STARTED, ENDED = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
STEP_LABEL = "annotationrun.dev/step"
MESSAGES = {
    Step.PLAN: write_result(PlanResult(plan=PLAN, episodes=EPISODES, pending=EPISODES)),
    Step.PREFETCH: write_result(PrefetchResult(model="org/model", commit=COMMIT, files=3, size_bytes=7)),
    Step.ANNOTATE: "",
    Step.MERGE: write_result(
        MergeOutcome(
            outcome="Published",
            plan=PLAN,
            total=EPISODES,
            done=EPISODES,
            results=EPISODES,
            merge_digest=MERGED,
            place="datasets:out",
        )
    ),
}


@dataclass
class JobPlayer:
    """Of one namespace. Steps in `held` get running pods that do not end."""

    api: KubeApi
    namespace: str
    held: set[Step] = field(default_factory=set)
    pod_ip: str = ""
    messages: dict[Step, str] = field(default_factory=lambda: dict(MESSAGES))
    """What a step's pod tells."""

    def turn(self) -> None:
        """Give pods to Jobs without, end those that may end, remove what is orphaned."""
        jobs = {job["metadata"]["uid"]: job for job in self.jobs()}
        pods = self.api.items(PODS.format(self.namespace))
        owners = {pod["metadata"]["ownerReferences"][0]["uid"]: pod for pod in pods}
        for uid, pod in owners.items():
            if uid not in jobs:
                path = f"{PODS.format(self.namespace)}/{pod['metadata']['name']}"
                self.api.delete(path, gracePeriodSeconds=0)
        for uid, job in jobs.items():
            if job["status"].get("conditions"):
                continue
            pod = owners.get(uid) or self._create_pod(job)
            self._set_pod(job, pod, is_running=True)
            if Step(job["metadata"]["labels"][STEP_LABEL]) not in self.held:
                self._set_pod(job, pod, is_running=False)
                self._end(job)

    def jobs(self) -> list[dict[str, Any]]:
        """Those of the operator."""
        return self.api.items(f"{JOBS.format(self.namespace)}?labelSelector={STEP_LABEL}")

    def _create_pod(self, job: dict[str, Any]) -> dict[str, Any]:
        metadata, template = job["metadata"], job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": metadata["name"],
            "uid": metadata["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{metadata['name']}-0",
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], "nodeName": "played"},
        }
        return self.api.create(PODS.format(self.namespace), pod)

    def _set_pod(self, job: dict[str, Any], pod: dict[str, Any], *, is_running: bool) -> None:
        step = Step(job["metadata"]["labels"][STEP_LABEL])
        terminated = {
            "exitCode": 0,
            "reason": "Completed",
            "message": self.messages[step],
            "startedAt": STARTED,
            "finishedAt": ENDED,
        }
        state = {
            "name": WORKER_CONTAINER,
            "image": "worker:1",
            "imageID": "",
            "ready": is_running,
            "restartCount": 0,
            "state": {"running": {"startedAt": STARTED}} if is_running else {"terminated": terminated},
        }
        phase = "Running" if is_running else "Succeeded"
        status: dict[str, Any] = {"phase": phase, "containerStatuses": [state]}
        if self.pod_ip:
            status["podIP"], status["podIPs"] = self.pod_ip, [{"ip": self.pod_ip}]
        self.api.patch(f"{PODS.format(self.namespace)}/{pod['metadata']['name']}/status", {"status": status})

    def _end(self, job: dict[str, Any]) -> None:
        count = job["spec"]["completions"]
        conditions = [
            {"type": kind, "status": "True", "lastProbeTime": ENDED, "lastTransitionTime": ENDED}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status: dict[str, Any] = {
            "startTime": STARTED,
            "completionTime": ENDED,
            "succeeded": count,
            "conditions": conditions,
        }
        if job["spec"]["completionMode"] == "Indexed":
            status["completedIndexes"] = "0" if count == 1 else f"0-{count - 1}"
        path = f"{JOBS.format(self.namespace)}/{job['metadata']['name']}/status"
        self.api.patch(path, {"status": status})
