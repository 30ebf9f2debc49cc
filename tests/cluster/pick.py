"""The run `pick` of the cluster's tests: what is done to it, and what it comes to undisturbed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.cluster.images import Images
from tests.cluster.manifests import SPEC, asked, external, start_server
from tests.cluster.waiting import wait_until
from tests.cluster.workspace import RUN_SECONDS, Workspace
from tests.support.annotation import REFERENCE

RUN_PODS: Final = "annotationrun.dev/run-name=pick"
WORKERS: Final = f"{RUN_PODS},annotationrun.dev/step=annotate"
LATENCY_SECONDS: Final = 0.3
IN_FLIGHT: Final = 3 * 16
"""Requests of three workers that a run may lose once."""
FEWER_QUESTIONS: Final = {"modules": {**SPEC["modules"], "vqa": {"emissionHz": 0.25}}}  # type: ignore[dict-item]
"""An edit of the module vqa alone."""


@dataclass(frozen=True)
class Undisturbed:
    """What the run comes to if it is left alone, and then with FEWER_QUESTIONS."""

    hashes: str
    requests: int
    edited_hashes: str
    edited_requests: int
    """On top: of the edit."""


def run_undisturbed(space: Workspace, images: Images) -> Undisturbed:
    """Run it, edit it, and look."""
    space.put_folder(REFERENCE, "in")
    space.apply(external("pick", start_server(space, images)))
    space.wait_complete("pick")
    requests = len(asked(space))
    patch(space, {**FEWER_QUESTIONS, "output": {"path": "edited"}})
    space.wait_complete("pick")
    found = Undisturbed(space.hashes("out"), requests, space.hashes("edited"), len(asked(space)) - requests)
    assert found.hashes != found.edited_hashes
    assert min(found.requests, found.edited_requests) > 0
    return found


def wait_until_annotating(space: Workspace, answers: int = 20, within_seconds: float = RUN_SECONDS) -> None:
    """Wait until the run is in the middle of its annotate step."""
    wait_until(lambda: staged_answers(space) >= answers, within_seconds, lambda: space.describe("pick"))


def staged_answers(space: Workspace) -> int:
    """How many answers are kept."""
    return int(space.shell("find staging/answers -name '*.json' 2>/dev/null | wc -l"))


def wait_until_at_work(space: Workspace, selector: str) -> list[dict[str, Any]]:
    """Wait until the run has pods of a step, ended or not; the pods."""
    wait_until(lambda: bool(space.list("pods", selector)), RUN_SECONDS, lambda: space.describe("pick"))
    return space.list("pods", selector)


def patch(space: Workspace, spec: Mapping[str, Any]) -> None:
    """Edit fields of its spec."""
    space.patch("annotationruns", "pick", {"spec": spec})


def live_pods(space: Workspace, selector: str = RUN_PODS) -> list[dict[str, Any]]:
    """Pods that have not ended; the plan's has, and stays to be read."""
    return [
        pod for pod in space.list("pods", selector) if pod["status"]["phase"] not in ("Succeeded", "Failed")
    ]
