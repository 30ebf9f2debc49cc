"""Claims of workers on one folder, and who counts as alive; the reader's clock is the test's."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.leases import (
    STALE_SECONDS,
    Beat,
    Claims,
    Liveness,
    WorkerId,
    encode_beat,
    heartbeat_path,
    this_process,
)
from annotationrun_worker.staging.store import StagingStore

KEY = digest_json("a key")
FIRST, SECOND, THIRD = (WorkerId(f"far-{number}-aa") for number in (1, 2, 3))
ELSEWHERE = replace(this_process(), boot_id="another machine")


class Place:
    """A staging folder, and workers of other machines at it."""

    def __init__(self, folder: Path) -> None:
        self.store = StagingStore(folder)
        self.seconds = 0.0
        self.liveness = Liveness(self.store, lambda: self.seconds)

    async def beat(self, worker: WorkerId, counter: int = 1) -> None:
        await self.store.put(heartbeat_path(worker), encode_beat(Beat(counter, ELSEWHERE)))

    async def claims(self, worker: WorkerId) -> Claims:
        """Those of a worker that lives."""
        await self.beat(worker)
        return Claims(self.store, worker, self.liveness)

    async def chain(self) -> list[bytes | None]:
        paths = sorted([found.path async for found in self.store.list(f"claims/{KEY}")])
        return [await self.store.read(path) for path in paths]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_living_worker_keeps_what_it_claimed(place):
    async def check():
        first, second = await place.claims(FIRST), await place.claims(SECOND)
        assert await first.take(KEY) is None
        assert await second.take(KEY) == FIRST
        assert await second.holder(KEY) == FIRST
        assert await place.chain() == [FIRST.encode()]
        assert second.takeovers == 0

    asyncio.run(check())


def test_a_worker_that_goes_on_beating_lives_however_long_it_takes(place):
    async def check():
        first, second = await place.claims(FIRST), await place.claims(SECOND)
        await first.take(KEY)
        for counter in range(2, 6):
            await place.beat(FIRST, counter)
            assert await second.take(KEY) == FIRST
            place.seconds += STALE_SECONDS - 1

    asyncio.run(check())


def test_the_claim_of_a_worker_that_beats_no_more_is_taken_over_by_one(place):
    async def check():
        first = await place.claims(FIRST)
        await first.take(KEY)
        assert await place.liveness.is_alive(FIRST)
        place.seconds += STALE_SECONDS
        second, third = await place.claims(SECOND), await place.claims(THIRD)
        assert await second.take(KEY) is None
        assert await third.take(KEY) == SECOND
        assert (second.takeovers, third.takeovers) == (1, 0)

    asyncio.run(check())


def test_who_lost_a_claim_to_another_lets_it_be(place):
    """A worker that was taken for dead, and lives: the claim is its taker's."""

    async def check():
        first = await place.claims(FIRST)
        await first.take(KEY)
        await place.store.delete(heartbeat_path(FIRST))
        second = await place.claims(SECOND)
        assert await second.take(KEY) is None
        await first.release(KEY)
        assert await place.chain() == [FIRST.encode(), SECOND.encode()]
        await second.release(KEY)
        assert await place.chain() == []

    asyncio.run(check())


def test_of_two_tasks_of_a_worker_one_takes_a_claim(place):
    async def check():
        claims = await place.claims(FIRST)
        assert sorted(map(str, await asyncio.gather(claims.take(KEY), claims.take(KEY)))) == ["None", FIRST]
        await claims.release(KEY)
        assert await claims.take(KEY) is None

    asyncio.run(check())
