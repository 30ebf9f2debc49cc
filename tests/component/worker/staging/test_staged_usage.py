"""The counts of workers in a staging store: who writes them when, and their sum."""

import asyncio

import pytest

from annotationrun_worker.errors import StorageError
from annotationrun_worker.staging.leases import WorkerId
from annotationrun_worker.staging.progress import WorkerUsage, read_usage, usage_path, usage_staged
from annotationrun_worker.staging.store import StagingStore, open_store

ONE, OTHER = WorkerId("host-1-aa"), WorkerId("host-2-bb")
USED = WorkerUsage(answered=3, prompt_tokens=30, completion_tokens=6, worker_seconds=2)


async def note(store, account, worker, *counts):
    """What a worker counts, one after the other; each is written before the next."""
    path = usage_path(account, worker)
    found = list(counts)
    async with usage_staged(store, path, lambda: found[0], every_seconds=0.01):
        while len(found) > 1:
            if await read_usage(store, account) == found[0]:
                found.pop(0)
            await asyncio.sleep(0.01)


def paths(store):
    return {found.path for found in store.list_now("usage")}


def test_the_sum_is_over_the_workers_of_one_account(location):
    async def run():
        store = open_store(location)
        await note(store, "run-1", ONE, USED, USED + USED)
        await note(store, "run-1", OTHER, USED)
        await note(store, "run-10", ONE, USED)
        assert paths(store) == {
            "usage/run-1/host-1-aa.json",
            "usage/run-1/host-2-bb.json",
            "usage/run-10/host-1-aa.json",
        }
        assert await read_usage(store, "run-1") == USED + USED + USED
        assert await read_usage(store, "run-2") == WorkerUsage()

    asyncio.run(run())


def test_a_worker_that_asked_nothing_and_held_no_gpu_writes_nothing(tmp_path):
    async def run():
        store = open_store(tmp_path)
        await note(store, "run", ONE, WorkerUsage(worker_seconds=7))
        assert paths(store) == set()
        await note(store, "run", ONE, WorkerUsage(worker_seconds=7, gpu_seconds=7))
        assert paths(store) == {"usage/run/host-1-aa.json"}

    asyncio.run(run())


def test_a_writing_that_fails_stops_nobody_and_the_next_makes_it_good(tmp_path):
    class Flaky(StagingStore):
        refused = 0

        async def put(self, path, content):
            if self.refused < 2:
                self.refused += 1
                raise StorageError("no route to the store")
            await super().put(path, content)

    async def run():
        store = Flaky(tmp_path)
        await note(store, "run", ONE, USED, USED + USED)
        assert store.refused == 2
        assert await read_usage(store, "run") == USED + USED

    asyncio.run(run())


def test_what_was_counted_is_written_also_where_the_work_fails(tmp_path):
    async def run():
        store = open_store(tmp_path)
        with pytest.raises(StorageError, match="the work"):
            async with usage_staged(store, usage_path("run", ONE), lambda: USED):
                raise StorageError("the work")
        assert await read_usage(store, "run") == USED

    asyncio.run(run())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"[1]", id="a list"),
        pytest.param(b'{"answered": "many"}', id="no number"),
        pytest.param(b'{"asked": 1}', id="another count"),
    ],
)
def test_counts_that_can_not_be_read_are_named_and_left_out(tmp_path, content, caplog):
    async def run():
        store = open_store(tmp_path)
        await store.create(usage_path("run", ONE), content)
        await store.create(usage_path("run", OTHER), b'{"answered": 3}')
        return await read_usage(store, "run")

    assert asyncio.run(run()) == WorkerUsage(answered=3)
    assert "'usage/run/host-1-aa.json' in" in caplog.text
