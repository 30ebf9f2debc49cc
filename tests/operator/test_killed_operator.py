"""An operator that is killed before or after any write to the API server: the next one makes no Job twice."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.api_server import ApiServer
from tests.support.kube_api import ALL_JOBS, wait_for
from tests.support.operator_killed_at import Place, forked_operator
from tests.support.played_run import PlayedRun

from annotationrun_api.labels import Step
from annotationrun_operator.cluster.fault_points import FaultPoint

JOBS = ["plan 1", "annotate 1", "annotate 2", "merge 1"]
STORIES_END_WITHIN_SECONDS = 300
AT_ONCE = 4
"""Stories played side by side, each in a namespace of its own with its own operator."""

pytestmark = pytest.mark.timeout(4 * STORIES_END_WITHIN_SECONDS)


class Story:
    """A run that is suspended in the middle of its annotate step, and goes on, played turn by turn."""

    def __init__(self, server: ApiServer) -> None:
        self.run = PlayedRun(server.api, server.new_namespace())
        self.run.player.held.add(Step.ANNOTATE)

    def turn(self) -> bool:
        """Play on; whether the run is complete."""
        run, state = self.run, self.run.state
        run.turn()
        if state == "Annotating" and run.player.held:
            run.edit(suspend=True)
        elif state == "Suspended" and len(run.player.jobs()) == 1:
            run.player.held.clear()
            run.edit(suspend=False)
        return state == "Complete"

    def outcome(self, events: Sequence[Mapping[str, Any]]) -> object:
        """What two runs of the story have in common: all but names, times and UIDs.

        Args:
            events: all about Jobs since the story began.
        """
        status = self.run.get()["status"]
        conditions = [(one["type"], one["status"], one["reason"]) for one in status["conditions"]]
        attempts = {step: status[step]["attempt"] for step in ("plan", "annotate", "merge")}
        told = (status["episodes"], status["progress"]["text"], status["published"]["place"])
        return self.run.created_jobs(events), conditions, attempts, told


class KilledStory(Story):
    """The story with an operator that dies at a fault point, and after it one that does not."""

    def __init__(self, server: ApiServer, folder: Path, stack: ExitStack, place: Place) -> None:
        super().__init__(server)
        self.was_killed = False
        self._stack = stack
        self._log = folder / f"{self.run.namespace}.log"
        self._start = partial(forked_operator, self._log, server.kubeconfig, self.run.namespace)
        self._operator = stack.enter_context(self._start(place))

    def turn(self) -> bool:
        code = self._operator.exitcode
        if code is not None:
            assert (code, self.was_killed) == (-signal.SIGKILL, False), self._log.read_text(encoding="utf-8")
            self.was_killed = True
            self._operator = self._stack.enter_context(self._start(None))
        return super().turn()


@pytest.fixture(scope="module")
def undisturbed(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The outcome with an operator that lives."""
    story = Story(server)
    log = tmp_path_factory.mktemp("undisturbed") / "operator.log"
    with forked_operator(log, server.kubeconfig, story.run.namespace, None):
        wait_for("the run's end", story.turn)
    events = server.api.events_since(ALL_JOBS, story.run.began)
    assert story.run.created_jobs(events) == JOBS
    return story.outcome(events)


@pytest.mark.parametrize("point", list(FaultPoint), ids=lambda point: point.value)
def test_no_job_is_made_twice_and_the_run_ends_alike(server, tmp_path, undisturbed, point):
    kills = 0
    for first in count(1, AT_ONCE):
        hits = range(first, first + AT_ONCE)
        with ExitStack() as stack:
            stories = [KilledStory(server, tmp_path, stack, (point, hit)) for hit in hits]
            # Each has its turn, whatever the others say.
            wait_for(
                "the runs' ends",
                lambda told=stories: sum(one.turn() for one in told) == AT_ONCE,
                STORIES_END_WITHIN_SECONDS,
            )
            events = server.api.events_since(ALL_JOBS, stories[0].run.began)
            for hit, story in zip(hits, stories, strict=True):
                assert story.outcome(events) == undisturbed, f"{point}, hit {hit}"
        kills += sum(story.was_killed for story in stories)
        if not all(story.was_killed for story in stories):
            break
    assert kills >= 1, "the story never comes to this point"
    print(f"{kills} kills {point}")
