"""A worker is asked for its progress over real HTTP; what it may answer wrongly does the operator no harm."""

import asyncio
import gzip
import socket

import pytest
from aiohttp import web

from annotationrun_api.step_results import MAX_PROGRESS_BYTES, WorkerProgress, write_result
from annotationrun_operator.cluster.progress_client import progress_client
from annotationrun_operator.errors import ProgressUnavailableError

PROGRESS = WorkerProgress(plan="a" * 64, total=64, done=24, failed=1)


async def ask(handler, host: str = "127.0.0.1") -> WorkerProgress:
    app = web.Application()
    app.add_routes([web.get("/progress", handler)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        async with progress_client(runner.addresses[0][1]) as client:
            return await client.ask(host)
    finally:
        await runner.cleanup()


def answer(**response):
    async def handler(request):
        return web.Response(**response)

    return handler


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_worker_tells_its_progress(host):
    assert asyncio.run(ask(answer(text=write_result(PROGRESS)), host)) == PROGRESS


@pytest.mark.parametrize(
    ("response", "said"),
    [
        pytest.param({"text": "x" * (MAX_PROGRESS_BYTES + 1)}, "over 65536 bytes", id="too long"),
        pytest.param({"text": "<html>"}, "expected a WorkerProgress", id="no JSON"),
        pytest.param({"text": '{"version": 2}'}, "expected a WorkerProgress", id="another version"),
        pytest.param(
            {"text": '{"plan": "../x", "total": 1, "done": 1}'}, "expected a Worker", id="no digest"
        ),
        pytest.param({"text": "no", "status": 404}, "expected HTTP 200, got 404", id="not found"),
        pytest.param(
            {"status": 302, "headers": {"Location": "/elsewhere"}},
            "expected HTTP 200, got 302",
            id="redirect",
        ),
        pytest.param(
            {
                "body": gzip.compress(write_result(PROGRESS).encode()),
                "headers": {"Content-Encoding": "gzip"},
            },
            "expected a WorkerProgress",
            id="compressed",
        ),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_what_it_was(response, said):
    with pytest.raises(ProgressUnavailableError, match=f"http://127.0.0.1:.*/progress: .*{said}"):
        asyncio.run(ask(answer(**response)))


def test_a_worker_that_hangs_is_given_up():
    async def scenario():
        stop = asyncio.Event()

        async def hang(request):
            await stop.wait()
            return web.Response()

        asyncio.get_running_loop().call_later(60, stop.set)
        await ask(hang)

    with pytest.raises(ProgressUnavailableError, match="no answer within 2 s"):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("pause_seconds", "said"),
    [
        pytest.param(0.2, "no answer within 2 s", id="slowly"),
        pytest.param(0.0, "over 65536 bytes", id="fast"),
    ],
)
def test_a_worker_that_sends_for_ever_is_given_up(pause_seconds, said):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1024)
            await asyncio.sleep(pause_seconds)

    with pytest.raises(ProgressUnavailableError, match=said):
        asyncio.run(ask(endless))


def test_a_port_that_nobody_listens_on_is_an_error():
    async def scenario(port):
        async with progress_client(port) as client:
            await client.ask("127.0.0.1")

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ProgressUnavailableError, match=f":{port}/progress: Client"):
        asyncio.run(scenario(port))
