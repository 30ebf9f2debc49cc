"""Runs in each state that one can be in, as objects of the API server: their status is the operator's own."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.cluster_objects import UID
from tests.support.run_world import RunWorld

from annotationrun_api.labels import Step
from annotationrun_api.status import write_status


@dataclass(frozen=True)
class RunState:
    """A run, and what tools make of it."""

    name: str
    argocd: str
    kstatus: str
    flux: str
    actions: tuple[str, ...]
    """What Argo CD offers to do."""
    make: Callable[[], RunWorld]

    def object(self) -> dict[str, Any]:
        world = self.make()
        manifest = copy.deepcopy(world.manifest)
        manifest["metadata"] |= {"uid": UID, "generation": world.generation}
        return {**manifest, "status": write_status(world.status)}


def _unseen() -> RunWorld:
    return RunWorld()


def _at(step: Step) -> RunWorld:
    world = RunWorld()
    world.go_to(step)
    world.run_pod(step)
    world.settle()
    return world


def _queued() -> RunWorld:
    world = RunWorld()
    world.edit(queueName="gpus")
    world.settle()
    return world


def _complete(**outcome: Any) -> RunWorld:
    world = RunWorld()
    world.go_to(Step.MERGE)
    world.end_merge(**outcome)
    world.settle()
    return world


def _edited() -> RunWorld:
    world = _complete()
    world.edit(modules={"vqa": {"emissionHz": 0.5}})
    return world


def _suspended() -> RunWorld:
    world = _at(Step.ANNOTATE)
    world.edit(suspend=True)
    world.settle()
    return world


def _looking_at_source() -> RunWorld:
    world = RunWorld()
    world.edit(source={**world.manifest["spec"]["source"], "follow": {"mode": "Poll"}})
    world.complete()
    world.wait(3600)
    world.settle()
    assert world.live == [Step.PLAN]
    return world


def _failed() -> RunWorld:
    world = _at(Step.ANNOTATE)
    world.end(Step.ANNOTATE, 3, "annotationrun: the model is another one")
    world.settle()
    return world


def _stalled() -> RunWorld:
    world = RunWorld()
    world.claims.clear()
    world.settle()
    return world


STATES = (
    RunState("unseen", "Progressing", "InProgress", "InProgress", ("suspend",), _unseen),
    RunState("planning", "Progressing", "InProgress", "InProgress", ("suspend",), lambda: _at(Step.PLAN)),
    RunState("queued", "Progressing", "InProgress", "InProgress", ("suspend",), _queued),
    RunState(
        "annotating", "Progressing", "InProgress", "InProgress", ("suspend",), lambda: _at(Step.ANNOTATE)
    ),
    RunState("merging", "Progressing", "InProgress", "InProgress", ("suspend",), lambda: _at(Step.MERGE)),
    RunState("complete", "Healthy", "Current", "Current", (), _complete),
    RunState(
        "with-failures", "Healthy", "Current", "Current", ("retry",), lambda: _complete(done=5, failed=1)
    ),
    RunState("looking-at-source", "Healthy", "Current", "Current", (), _looking_at_source),
    RunState("edited", "Progressing", "InProgress", "InProgress", (), _edited),
    RunState("suspended", "Suspended", "InProgress", "Current", ("resume",), _suspended),
    RunState("failed", "Degraded", "Failed", "Failed", ("retry",), _failed),
    RunState("stalled", "Degraded", "Failed", "Failed", ("suspend",), _stalled),
)
