"""A run in a namespace of an API server, its claim, and what became of it."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.job_player import JobPlayer
from tests.support.kube_api import JOBS, RUNS, ApiError, KubeApi, wait_for
from tests.support.run_world import MANIFEST

NAME = "run"


class PlayedRun:
    """The run; its Jobs are played."""

    def __init__(self, api: KubeApi, namespace: str, **spec: Any) -> None:
        self.api = api
        self.namespace = namespace
        self.player = JobPlayer(api, namespace)
        self.began = api.get(JOBS.format(namespace))["metadata"]["resourceVersion"]
        api.create(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims", _claim())
        manifest = copy.deepcopy(MANIFEST)
        manifest["metadata"]["namespace"] = namespace
        manifest["spec"].update(spec)
        self.uid = api.create(RUNS.format(namespace), manifest)["metadata"]["uid"]

    @property
    def path(self) -> str:
        return f"{RUNS.format(self.namespace)}/{NAME}"

    def get(self) -> dict[str, Any]:
        return self.api.get(self.path)

    def edit(self, **spec: Any) -> None:
        self.api.patch(self.path, {"spec": spec})

    def delete(self) -> None:
        self.api.delete(self.path)

    def condition(self, kind: str) -> dict[str, Any]:
        """The condition, or an empty one."""
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {"status": "", "reason": ""})

    @property
    def state(self) -> str:
        return self.condition("Ready")["reason"]

    def play_until(self, state: str) -> None:
        """Play the Jobs until the run is in a state."""

        def is_there() -> bool:
            self.turn()
            return self.state == state

        wait_for(f"{self.namespace}/{NAME} in state {state}", is_there)

    def turn(self) -> None:
        """Play the Jobs as far as they are now."""
        try:
            self.player.turn()
        except ApiError as error:  # the operator deletes Jobs while they are played
            if error.code not in {404, 409}:
                raise

    def created_jobs(self, events: Iterable[Mapping[str, Any]] | None = None) -> list[str]:
        """Step and attempt of every Job that was ever created here, in order, the deleted ones too.

        Args:
            events: all about Jobs since the run was made, of other namespaces too; asked for if not given.
        """
        if events is None:
            events = self.api.events_since(JOBS.format(self.namespace), self.began)
        created = [event["object"]["metadata"] for event in events if event["type"] == "ADDED"]
        labels = [one["labels"] for one in created if one["namespace"] == self.namespace]
        return [f"{one['annotationrun.dev/step']} {one['annotationrun.dev/attempt']}" for one in labels]


def _claim() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
