"""A process that has much to do is alive; one that does nothing any more is not."""

import asyncio
import contextlib

import pytest
from tests.support.crowded_api import CrowdedApi, crowded_api
from tests.support.watch_proxy import plain_kubeconfig

from annotationrun_operator.cluster.api import connected
from annotationrun_operator.cluster.watches import Resync, ResyncSettings, Watched, WatchRecord
from annotationrun_operator.cluster.work_queue import QueueSettings, WorkQueue
from annotationrun_operator.observation import RunKey
from annotationrun_operator.telemetry.health import Health, Patience

PATIENCE_SECONDS = 60.0
OFTEN = ResyncSettings(list_seconds=0.0, mark_all_seconds=3600.0)
KEYS = [RunKey("robots", f"run-{number}") for number in range(5000)]


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Operator:
    """The parts of an operator that health looks at; a pass waits until it is told to go on."""

    def __init__(self, api=None, patience: Patience | None = None) -> None:
        self.clock = Clock()
        self.goes_on = asyncio.Event()
        self.record = WatchRecord(self.clock)
        self.queue: WorkQueue[RunKey] = WorkQueue(
            self._look, lambda error, failures: 0.0, QueueSettings(workers=2, spacing_seconds=0.0)
        )
        self.resync = Resync(api, (None,), self.record, self.queue.enqueue, OFTEN, self.clock)
        self.health = Health(self.queue, self.record, self.resync, patience or Patience())
        self.health.is_ready = True

    async def _look(self, key: RunKey) -> None:
        await self.goes_on.wait()

    @contextlib.asynccontextmanager
    async def running(self):
        async with asyncio.timeout(PATIENCE_SECONDS):
            task = asyncio.create_task(self.queue.run())
            await self.queue.started.wait()
            try:
                yield self
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def problems(self) -> list[str]:
        """The beginning of each."""
        return [problem.partition(":")[0].partition(" for ")[0] for problem in self.health.problems()]


def test_a_long_queue_is_no_problem():
    async def scenario():
        async with Operator().running() as operator:
            for key in KEYS:
                operator.queue.enqueue(key)
            assert operator.queue.length == len(KEYS)
            assert operator.problems() == []
            operator.goes_on.set()

    asyncio.run(scenario())


def test_a_pass_that_does_not_end_is_a_problem():
    async def scenario():
        async with Operator(patience=Patience(reconcile_seconds=0.0)).running() as operator:
            assert operator.problems() == []
            operator.queue.enqueue(KEYS[0])
            while not operator.problems():
                await asyncio.sleep(0.01)
            (problem,) = operator.health.problems()
            assert problem.startswith("reconciling a run takes ")

    asyncio.run(scenario())


def test_a_queue_that_has_ended_is_a_problem():
    async def scenario():
        async with Operator().running() as operator:
            pass
        assert operator.problems() == ["a worker of the queue has ended"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("brings", "problems"),
    [
        pytest.param(True, [], id="and brings others meanwhile"),
        pytest.param(False, ["a watch is dead"], id="and brings nothing"),
    ],
)
def test_a_watch_owes_an_object(brings, problems):
    async def scenario():
        async with Operator().running() as operator:
            operator.record.listed(Watched.RUNS, KEYS[0], {"owed": "7000"})
            for number in range(10):
                operator.clock.wait(15)
                if brings:
                    operator.record.brought(Watched.RUNS, "robots", f"uid-{number}", "5")
            assert operator.problems() == problems

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("page_seconds", "problems"),
    [
        pytest.param(100, [], id="each in time"),
        pytest.param(200, ["the runs could not be listed"] * 3, id="each too late"),
    ],
)
def test_a_list_has_many_pages(page_seconds, problems, tmp_path, monkeypatch):
    """Real pages over real HTTP; what is looked at is what health says before each of them is there."""
    crowd, found = CrowdedApi(), []
    for key in KEYS[:1500]:
        crowd.add_run(key.name, {})

    async def scenario():
        async with connected(lambda *request: None) as api, Operator(api).running() as operator:

            def before_page():
                operator.clock.wait(page_seconds)
                found.extend(operator.problems())

            crowd.before_page = before_page
            operator.goes_on.set()
            await operator.resync.list_once(mark_all=False)
            assert operator.problems() == []

    with crowded_api(crowd):
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(plain_kubeconfig(crowd.url), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        asyncio.run(scenario())
    assert found == problems
