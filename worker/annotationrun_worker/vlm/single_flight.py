"""Equal work that is asked for several times at once is done once."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from annotationrun_worker.staging.digests import Digest

Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    waiters: int = 0


class SingleFlight(Generic[Result]):
    """Work under way in one event loop, by key."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._flights: dict[Digest, _Flight[Result]] = {}

    async def do(self, key: Digest, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What ``work`` gives or raises, or that which is under way for ``key`` already.

        Who is cancelled stops waiting and takes nobody with it; the work stops when nobody waits any more.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if flight.waiters == 0:
                del self._flights[key]
                flight.task.cancel()
