"""Tells over HTTP whether the operator does its work, and its metrics.

``/healthz`` fails where a restart is likely to help: a watch that owes objects and brings nothing, a queue
without workers, reconciling that never ends. Much work is no reason: neither a long queue, nor a watch that
still brings the many objects that a list has shown, nor a list of many pages. ``/readyz`` fails until the
runs are watched.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web

from annotationrun_operator.cluster.watches import Resync, WatchRecord
from annotationrun_operator.cluster.work_queue import WorkQueue
from annotationrun_operator.observation import RunKey
from annotationrun_operator.telemetry.metrics import CONTENT_TYPE, Metrics

_SHUTDOWN_SECONDS = 1.0
_KEEP_ALIVE_SECONDS = 2.0
"""Kopf waits for open connections when it ends: 5 s."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What is too long for a process that does its work."""

    list_seconds: float = 30.0
    """Between two lists of the runs, which tell whether the watches are behind."""
    watch_behind_seconds: float = 90.0
    """A watch may bring nothing for so long though a list has shown more; kopf opens a silent one again after
    70 s."""
    list_age_seconds: float = 180.0
    """The API server may be away so long."""
    reconcile_seconds: float = 300.0
    """The queue ends it long before: what takes longer does not let itself be ended."""


class Health:
    """What is wrong with this process."""

    def __init__(
        self, queue: WorkQueue[RunKey], record: WatchRecord, resync: Resync, patience: Patience
    ) -> None:
        self._queue = queue
        self._record = record
        self._resync = resync
        self._patience = patience
        self.is_ready = False
        """Whether the runs are watched."""

    def problems(self) -> Sequence[str]:
        """Each a sentence; none if all is well."""
        found: list[str] = []
        if not self._queue.is_alive:
            found.append("a worker of the queue has ended")
        if self._queue.longest_reconcile_seconds > self._patience.reconcile_seconds:
            found.append(f"reconciling a run takes {self._queue.longest_reconcile_seconds:.0f} s so far")
        if not self.is_ready:
            return found
        if self._record.behind_seconds > self._patience.watch_behind_seconds:
            found.append(
                f"a watch is dead: it has not brought within {self._record.behind_seconds:.0f} s"
                " what a list has shown, nor anything else"
            )
        if self._resync.unanswered_seconds > self._patience.list_age_seconds:
            found.append(f"the runs could not be listed for {self._resync.unanswered_seconds:.0f} s")
        return found


@asynccontextmanager
async def serving_health(health: Health, port: int) -> AsyncIterator[int]:
    """Serve ``/healthz`` and ``/readyz`` on a port of all addresses; yields the port."""

    async def healthz(request: web.Request) -> web.Response:
        return _answer(health.problems())

    async def readyz(request: web.Request) -> web.Response:
        return _answer(health.problems() if health.is_ready else ["the runs are not watched yet"])

    async with _serving({"/healthz": healthz, "/readyz": readyz}, port) as bound:
        yield bound


@asynccontextmanager
async def serving_metrics(metrics: Metrics, port: int) -> AsyncIterator[int]:
    """Serve ``/metrics`` on a port of all addresses; yields the port."""

    async def text(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async with _serving({"/metrics": text}, port) as bound:
        yield bound


def _answer(problems: Sequence[str]) -> web.Response:
    if not problems:
        return web.Response(text="ok\n")
    return web.Response(text="\n".join(problems) + "\n", status=HTTPStatus.SERVICE_UNAVAILABLE)


def _listen(port: int) -> socket.socket:
    """One socket for IPv4 and IPv6, so that both have the same port though it be any."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


@asynccontextmanager
async def _serving(
    routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]], port: int
) -> AsyncIterator[int]:
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    runner = web.AppRunner(
        app,
        handle_signals=False,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_SECONDS,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
    )
    await runner.setup()
    try:
        listening = _listen(port)
        await web.SockSite(runner, listening).start()
        yield listening.getsockname()[1]
    finally:
        await runner.cleanup()
