"""A bound on requests in flight that lets those go first on whose answers others wait."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager


class Turns:
    """So many at once; who waits comes in order, but those that can wait come last."""

    def __init__(self, at_once: int) -> None:
        """Nobody has a turn yet."""
        self._free = at_once
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._numbers: Iterator[int] = itertools.count()

    @asynccontextmanager
    async def turn(self, *, can_wait: bool) -> AsyncIterator[None]:
        """Wait for a turn, and have it within the context."""
        if self._free:
            self._free -= 1
        else:
            mine = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (can_wait, next(self._numbers), mine))
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # the turn came just then
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            *_, following = heapq.heappop(self._waiting)
            if not following.done():
                following.set_result(None)
                return
        self._free += 1
