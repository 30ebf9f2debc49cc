"""How many episodes a worker holds: enough to keep its requests in flight, and no more.

What one worker holds, no other can take. A worker that took episodes up to a fixed number would leave the
others without work at the end; so it takes the next only when those that it holds can't fill its share of the
server twice over (once in flight, once being looked at meanwhile).
"""

import asyncio
from dataclasses import dataclass, field

from annotationrun_worker.dataset.records import EpisodeIndex
from annotationrun_worker.vlm.server_settings import AT_HAND


@dataclass(slots=True)
class Load:
    """Requests that the episodes at work may still make side by side."""

    requests_in_flight: int
    """The worker's bound."""
    _expected: dict[EpisodeIndex, int] = field(default_factory=dict)
    """Requests still to come that need not wait for each other."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self, episode: EpisodeIndex, requests_at_once: int) -> None:
        """Wait until another episode is wanted, and count ``episode`` in."""
        while sum(self._expected.values()) >= AT_HAND * self.requests_in_flight:
            self._changed.clear()
            await self._changed.wait()
        self._expected[episode] = max(1, requests_at_once)

    def answered(self, episode: EpisodeIndex) -> None:
        """One question of ``episode`` is done with; while it is at work at least one more may come."""
        self._expected[episode] = max(1, self._expected[episode] - 1)
        self._changed.set()

    def end(self, episode: EpisodeIndex) -> None:
        """The episode is done with."""
        del self._expected[episode]
        self._changed.set()
