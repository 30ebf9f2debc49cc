"""A watch that brings nothing is found out, though its connection is open; meanwhile no change is missed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from tests.support.api_server import ApiServer
from tests.support.kube_api import JOBS, PATIENCE_SECONDS
from tests.support.played_run import PlayedRun
from tests.support.run_world import SETTINGS
from tests.support.watch_proxy import WatchProxy, plain_kubeconfig, watch_proxy

from annotationrun_api.labels import Step
from annotationrun_operator.__main__ import Parts, make_parts, watch
from annotationrun_operator.cluster.api import connected
from annotationrun_operator.cluster.progress_client import progress_client
from annotationrun_operator.observation import RunKey
from annotationrun_operator.settings import OperatorSettings
from annotationrun_operator.telemetry.health import Patience, serving_health
from annotationrun_operator.telemetry.metrics import Metrics

IMPATIENT = Patience(list_seconds=0.2, watch_behind_seconds=2.0, list_age_seconds=3.0, reconcile_seconds=60.0)
WATCHES = 3
AWAY_SECONDS = 20
"""Longer than a watch would be tried again if its attempts were counted."""


@dataclass
class Operated:
    """An operator that reaches the API server through a proxy."""

    proxy: WatchProxy
    parts: Parts
    health_port: int

    async def health(self) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.health_port}/healthz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def wait_for_health(self) -> None:
        while await self.health() != (200, "ok\n"):
            await asyncio.sleep(0.05)

    async def wait_for_problem(self, said: str) -> None:
        """Wait until a problem is told; on a busy machine another one may be told before."""
        while not any(line.startswith(said) for line in await self._problems()):
            await asyncio.sleep(0.05)

    async def _problems(self) -> list[str]:
        status, text = await self.health()
        return text.splitlines() if status == 503 else []


@asynccontextmanager
async def operated(server: ApiServer, namespace: str, monkeypatch, tmp_path) -> AsyncIterator[Operated]:
    settings = OperatorSettings((namespace,), resync_seconds=3600)
    async with watch_proxy(server.api) as proxy:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(plain_kubeconfig(proxy.url), encoding="utf-8")
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        async with connected(lambda *request: None) as api, progress_client() as progress:
            parts = make_parts(api, progress, Metrics(), settings, SETTINGS, IMPATIENT)
            async with serving_health(parts.health, 0) as port, asyncio.timeout(2 * PATIENCE_SECONDS):
                tasks = [asyncio.create_task(parts.queue.run())]
                await parts.queue.started.wait()
                stop = asyncio.Event()
                watching = asyncio.create_task(watch(parts, settings, stop))
                tasks += [asyncio.create_task(parts.resync.run()), watching]
                parts.health.is_ready = True
                try:
                    while len(proxy.transports) < WATCHES:
                        assert not any(task.done() for task in tasks)
                        await asyncio.sleep(0.05)
                    yield Operated(proxy, parts, port)
                finally:
                    stop.set()
                    await asyncio.wait([watching])
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                watching.result()  # an error of the watches ends the operator


async def play(run: PlayedRun, is_there: Callable[[], bool]) -> None:
    """Play the run's Jobs until something holds; the operator runs meanwhile."""
    while True:
        await asyncio.to_thread(run.turn)
        if await asyncio.to_thread(is_there):
            return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("resource", ["annotationruns", "jobs", "pods"])
def test_a_watch_that_brings_bookmarks_alone_is_dead(server, namespace, monkeypatch, tmp_path, resource):
    async def scenario():
        async with operated(server, namespace, monkeypatch, tmp_path) as operator:
            run = PlayedRun(server.api, namespace)
            run.player.held.add(Step.ANNOTATE)
            await play(run, lambda: run.state == "Annotating")
            await operator.wait_for_health()
            operator.proxy.swallowed.add(resource)
            await asyncio.to_thread(_touch, run, resource)
            operator.parts.queue.enqueue(RunKey(namespace, "run"))  # as a recheck does
            await operator.wait_for_problem("a watch is dead: it has not brought within")
            # The load balancer is mended: the watch goes on where it was.
            operator.proxy.swallowed.clear()
            operator.proxy.close_watches()
            await operator.wait_for_health()

    asyncio.run(scenario())


def test_changes_are_seen_though_the_watch_of_runs_is_dead(server, namespace, monkeypatch, tmp_path):
    async def scenario():
        async with operated(server, namespace, monkeypatch, tmp_path) as operator:
            operator.proxy.swallowed.add("annotationruns")
            run = PlayedRun(server.api, namespace, suspend=True)
            await play(run, lambda: run.state == "Suspended")
            await asyncio.to_thread(run.edit, suspend=False)
            await play(run, lambda: run.state == "Complete")

    asyncio.run(scenario())


def test_an_api_server_that_is_away_for_long_is_told(server, namespace, monkeypatch, tmp_path):
    async def scenario():
        async with operated(server, namespace, monkeypatch, tmp_path) as operator:
            await operator.wait_for_health()
            operator.proxy.is_away = True
            operator.proxy.close_watches()
            await operator.wait_for_problem("the runs could not be listed for")
            await asyncio.sleep(AWAY_SECONDS)
            operator.proxy.is_away = False
            await operator.wait_for_health()
            while len(operator.proxy.transports) < WATCHES:
                await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_what_is_deleted_while_a_watch_is_dead_is_awaited_no_more(server, namespace, monkeypatch, tmp_path):
    async def scenario():
        async with operated(server, namespace, monkeypatch, tmp_path) as operator:
            run = PlayedRun(server.api, namespace)
            run.player.held.add(Step.PLAN)
            await play(run, lambda: run.state == "Planning")
            operator.proxy.swallowed |= {"annotationruns", "jobs", "pods"}
            await asyncio.to_thread(_touch, run, "annotationruns")
            await operator.wait_for_problem("a watch is dead: it has not brought within")
            await asyncio.to_thread(run.delete)
            await operator.wait_for_health()

    asyncio.run(scenario())


def _touch(run: PlayedRun, resource: str) -> None:
    """Change an object of a kind, in a way that asks for nothing."""
    annotations = {"metadata": {"annotations": {"example.com/touched": "yes"}}}
    if resource == "annotationruns":
        path = run.path
    else:
        kind = JOBS if resource == "jobs" else "/api/v1/namespaces/{}/pods"
        items = run.api.items(kind.format(run.namespace))
        name = next(item["metadata"]["name"] for item in items if "annotate" in item["metadata"]["name"])
        path = f"{kind.format(run.namespace)}/{name}"
    run.api.patch(path, annotations)
