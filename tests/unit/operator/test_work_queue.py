"""One pass at a time for each key; marks come to as few passes as possible, and none is lost."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise

import pytest

from annotationrun_api.errors import TransientError
from annotationrun_operator.cluster.work_queue import QueueSettings, WorkQueue

PATIENCE_SECONDS = 60.0
QUICK = QueueSettings(workers=2, spacing_seconds=0.0, reconcile_timeout_seconds=30.0)
Look = Callable[[str], Awaitable[float | None]]


@contextlib.asynccontextmanager
async def running(
    look: Look, settings: QueueSettings = QUICK, retry=lambda error, failures: 0.0
) -> AsyncIterator:
    queue: WorkQueue[str] = WorkQueue(look, retry, settings)
    task = asyncio.create_task(queue.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await queue.started.wait()
        try:
            yield queue
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert not queue.is_alive


def test_a_mark_brings_a_pass():
    async def scenario():
        passes: asyncio.Queue[str] = asyncio.Queue()
        async with running(passes.put) as queue:
            queue.enqueue("a")
            queue.enqueue("b")
            assert {await passes.get(), await passes.get()} == {"a", "b"}

    asyncio.run(scenario())


def test_marks_made_before_the_queue_runs_are_kept():
    async def scenario():
        passes: asyncio.Queue[str] = asyncio.Queue()
        queue: WorkQueue[str] = WorkQueue(passes.put, lambda error, failures: 0.0, QUICK)
        queue.enqueue("a")
        queue.enqueue("a")
        assert queue.length == 1
        task = asyncio.create_task(queue.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await passes.get() == "a"
        task.cancel()

    asyncio.run(scenario())


def test_marks_during_a_pass_come_to_one_more_pass_after_it():
    async def scenario():
        began, may_end = asyncio.Queue(), asyncio.Semaphore(0)
        at_work = most_at_work = 0

        async def look(key):
            nonlocal at_work, most_at_work
            at_work += 1
            most_at_work = max(most_at_work, at_work)
            began.put_nowait(key)
            await may_end.acquire()
            at_work -= 1

        async with running(look) as queue:
            queue.enqueue("a")
            await began.get()
            for _ in range(100):
                queue.enqueue("a")
            may_end.release()
            await began.get()
            # While the other worker is free, the second pass is at work and none beside it.
            queue.enqueue("other")
            assert await began.get() == "other"
            may_end.release()
            may_end.release()
            queue.enqueue("last")
            assert await began.get() == "last"
            assert began.empty()
            may_end.release()
        return most_at_work

    assert asyncio.run(scenario()) == 2  # of different keys


def test_no_two_passes_over_a_key_overlap_under_many_marks():
    async def scenario():
        inside: set[str] = set()
        overlaps: list[str] = []
        counts = {"a": 0, "b": 0, "c": 0}
        enough = asyncio.Event()

        async def look(key):
            overlaps.extend({key} & inside)  # an error here would be a failed pass, and tried again
            inside.add(key)
            counts[key] += 1
            await asyncio.sleep(0)
            inside.remove(key)
            if min(counts.values()) >= 50:
                enough.set()

        async with running(look, QueueSettings(workers=4, spacing_seconds=0.0)) as queue:
            while not enough.is_set():
                for key in counts:
                    queue.enqueue(key)
                await asyncio.sleep(0)
            assert queue.is_alive
        return overlaps

    assert asyncio.run(scenario()) == []


def test_a_pass_may_ask_for_the_next_one():
    async def scenario():
        passes: asyncio.Queue[str] = asyncio.Queue()
        rechecks = iter([0.01, 0.01, None])

        async def look(key):
            passes.put_nowait(key)
            return next(rechecks)

        async with running(look) as queue:
            queue.enqueue("a")
            for _ in range(3):
                await passes.get()

    asyncio.run(scenario())


def test_a_mark_does_not_wait_for_the_recheck():
    async def scenario():
        passes: asyncio.Queue[str] = asyncio.Queue()

        async def look(key):
            passes.put_nowait(key)
            return 100 * PATIENCE_SECONDS

        async with running(look) as queue:
            queue.enqueue("a")
            await passes.get()
            queue.enqueue("a")
            await passes.get()

    asyncio.run(scenario())


def test_a_key_rests_between_passes():
    async def scenario():
        begins = []
        third = asyncio.Event()

        async def look(key):
            begins.append(asyncio.get_running_loop().time())
            queue.enqueue("a")
            if len(begins) == 3:
                third.set()

        async with running(look, QueueSettings(workers=2, spacing_seconds=0.2)) as queue:
            queue.enqueue("a")
            await third.wait()
        return begins

    assert all(later - earlier >= 0.199 for earlier, later in pairwise(asyncio.run(scenario())))


def test_a_failed_pass_is_tried_again_with_the_count_of_failures(caplog):
    async def scenario():
        asked = []
        done = asyncio.Event()

        async def look(key):
            if len(asked) < 3:
                raise TransientError("the API server is away")
            done.set()

        def retry(error, failures):
            asked.append((type(error), failures))
            return 0.0

        async with running(look, retry=retry) as queue:
            queue.enqueue("a")
            await done.wait()
        return asked

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(scenario()) == [(TransientError, count) for count in (1, 2, 3)]
    assert "the API server is away" in caplog.text
    assert "Traceback" not in caplog.text


def test_success_ends_the_count_of_failures():
    async def scenario():
        outcomes = iter([TransientError("x"), None, TransientError("y"), None])
        asked, passes = [], asyncio.Queue()

        async def look(key):
            outcome = next(outcomes)
            passes.put_nowait(key)
            if outcome is not None:
                raise outcome
            return 0.01

        def retry(error, failures):
            asked.append(failures)
            return 0.0

        async with running(look, retry=retry) as queue:
            queue.enqueue("a")
            for _ in range(4):
                await passes.get()
        return asked

    assert asyncio.run(scenario()) == [1, 1]


def test_a_defect_in_one_pass_leaves_the_others_alone(caplog):
    async def scenario():
        passes: asyncio.Queue[str] = asyncio.Queue()

        async def look(key):
            if key == "broken":
                raise KeyError("metadata")
            passes.put_nowait(key)

        async with running(look, retry=lambda error, failures: 3600.0) as queue:
            for key in ("broken", "a", "b", "c"):
                queue.enqueue(key)
            assert {await passes.get() for _ in range(3)} == {"a", "b", "c"}
            assert queue.is_alive

    asyncio.run(scenario())
    assert "KeyError: 'metadata'" in caplog.text


def test_a_pass_that_hangs_fails_and_is_seen_meanwhile():
    async def scenario():
        failed: asyncio.Queue[Exception] = asyncio.Queue()

        def retry(error, failures):
            failed.put_nowait(error)
            return 3600.0

        async def look(key):
            await asyncio.Event().wait()

        async with running(look, QueueSettings(workers=1, reconcile_timeout_seconds=0.3), retry) as queue:
            assert queue.longest_reconcile_seconds == 0.0
            queue.enqueue("a")
            while queue.longest_reconcile_seconds == 0.0:
                await asyncio.sleep(0.01)
            assert isinstance(await failed.get(), TimeoutError)

    asyncio.run(scenario())


def test_a_queue_whose_worker_ended_is_not_alive():
    class Unheard(BaseException):
        """No pass should raise such a thing; a worker does not live through it."""

    async def scenario():
        async def look(key):
            raise Unheard

        queue: WorkQueue[str] = WorkQueue(look, lambda error, failures: 0.0, QUICK)
        task = asyncio.create_task(queue.run())
        await queue.started.wait()
        assert queue.is_alive
        queue.enqueue("a")
        with pytest.raises(BaseExceptionGroup) as raised:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await task
        assert raised.group_contains(Unheard)
        assert not queue.is_alive

    asyncio.run(scenario())
