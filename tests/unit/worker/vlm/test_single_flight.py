"""Equal work at once is done once, and who gives up takes nobody along."""

import asyncio

import pytest

from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.vlm.ask import SingleFlight

KEY, OTHER_KEY = digest_json("a question"), digest_json("another question")


class Work:
    """Work that ends when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.was_cancelled = False
        self.may_end = asyncio.Event()
        self._error = error

    async def __call__(self) -> int:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self._error is not None:
            raise self._error
        return self.begun


async def let_all_begin() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_equal_work_at_once_is_done_once_and_later_again():
    async def check():
        flights, work = SingleFlight(), Work()
        waiters = [asyncio.create_task(flights.do(KEY, work)) for _ in range(3)]
        other = asyncio.create_task(flights.do(OTHER_KEY, work))
        await let_all_begin()
        assert work.begun == 2, "one for each key"
        work.may_end.set()
        assert await asyncio.gather(*waiters, other) == [2, 2, 2, 2]
        assert await flights.do(KEY, work) == 3

    asyncio.run(check())


def test_who_gives_up_takes_none_of_the_others_along():
    async def check():
        flights, work = SingleFlight(), Work()
        first, second = (asyncio.create_task(flights.do(KEY, work)) for _ in range(2))
        await let_all_begin()
        first.cancel()
        await let_all_begin()
        assert first.cancelled()
        work.may_end.set()
        assert await second == 1

    asyncio.run(check())


def test_work_that_nobody_waits_for_any_more_stops_and_can_be_begun_again():
    async def check():
        flights, work = SingleFlight(), Work()
        waiters = [asyncio.create_task(flights.do(KEY, work)) for _ in range(2)]
        await let_all_begin()
        for waiter in waiters:
            waiter.cancel()
        await let_all_begin()
        assert work.was_cancelled
        work.may_end.set()
        assert await flights.do(KEY, work) == 2

    asyncio.run(check())


def test_what_fails_fails_for_all_who_wait():
    async def check():
        flights, work = SingleFlight(), Work(OSError("gone"))
        waiters = [asyncio.create_task(flights.do(KEY, work)) for _ in range(2)]
        await let_all_begin()
        work.may_end.set()
        for waiter in waiters:
            with pytest.raises(OSError, match="gone"):
                await waiter
        assert work.begun == 1

    asyncio.run(check())
