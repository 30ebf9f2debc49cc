"""Looks at frames: so many at once, and so many bytes in all, whoever looks."""

import asyncio

import pytest

from annotationrun_worker.modules.base import Looks

MEBIBYTE = 1024**2


async def peak_of(looks: Looks, sizes: list[int]) -> tuple[int, int, list[int]]:
    """The most looks and bytes at once, and the order in which they began."""
    under_way: list[int] = []
    peaks = [0, 0]
    order: list[int] = []

    async def look(number: int) -> None:
        async with looks.held(sizes[number]):
            order.append(number)
            under_way.append(sizes[number])
            peaks[:] = max(peaks[0], len(under_way)), max(peaks[1], sum(under_way))
            await asyncio.sleep(0.001)
            under_way.remove(sizes[number])

    await asyncio.gather(*map(look, range(len(sizes))))
    return peaks[0], peaks[1], order


@pytest.mark.parametrize(
    ("sizes", "peak"),
    [
        pytest.param([1] * 9, (2, 2), id="small ones two by two"),
        pytest.param([6] * 5, (1, 6), id="those that have no room for two alone"),
        pytest.param([100, 1, 100], (1, 100), id="one that is larger than all room alone"),
        pytest.param([5, 5, 5, 5], (2, 10), id="two that just fit"),
    ],
)
def test_looks_and_their_bytes_are_bounded(sizes, peak):
    looks = Looks(most=2, most_bytes=10)
    *found, order = asyncio.run(peak_of(looks, sizes))
    assert tuple(found) == peak
    assert order == list(range(len(sizes))), "who came first looks first"


def test_a_look_that_fails_or_is_cancelled_gives_its_room_back():
    async def fail(looks):
        async with looks.held(10):
            raise KeyError

    async def hold(looks, entered):
        async with looks.held(10):
            entered.set()
            await asyncio.Event().wait()

    async def all_of_it():
        looks, entered = Looks(most=1, most_bytes=10), asyncio.Event()
        with pytest.raises(KeyError):
            await fail(looks)
        holding = asyncio.create_task(hold(looks, entered))
        await entered.wait()
        waiting = asyncio.create_task(hold(looks, asyncio.Event()))
        await asyncio.sleep(0)
        for task in (waiting, holding):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return await peak_of(looks, [10])

    assert asyncio.run(all_of_it()) == (1, 10, [0])


@pytest.mark.parametrize(
    ("frame_bytes", "together"), [(100, 20), (64 * MEBIBYTE, 4), (1024 * MEBIBYTE, 1), (0, 20)]
)
def test_fewer_frames_of_a_large_camera_are_looked_at_together(frame_bytes, together):
    assert Looks(most_bytes=256 * MEBIBYTE).frames_at_once(20, frame_bytes) == together
