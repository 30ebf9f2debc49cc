"""How many pixels are in memory at once, over all episodes of a run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LOOKS_AT_ONCE: Final = 2
"""Decoded and encoded side by side: keeps both cores of a small machine busy, and few pixels in memory."""
LOOK_BYTES: Final = 256 * 1024**2
"""Of frames in all looks together: two of 40 frames at 1080p, or one of two at 8K."""


class Looks:
    """The looks under way, for one event loop; who came first looks first."""

    def __init__(self, most: int = LOOKS_AT_ONCE, most_bytes: int = LOOK_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self._under_way = 0
        self._bytes = 0

    def frames_at_once(self, frames: int, frame_bytes: int) -> int:
        """How many of ``frames`` are to be looked at together, one at least."""
        return max(min(frames, self._most_bytes // max(frame_bytes, 1)), 1)

    @asynccontextmanager
    async def held(self, size_bytes: int) -> AsyncIterator[None]:
        """Have room for frames of so many bytes; a look that is larger than all room is alone."""
        async with self._turn:
            while self._under_way and not self._has_room(size_bytes):
                self._freed.clear()
                await self._freed.wait()
            self._under_way += 1
            self._bytes += size_bytes
        try:
            yield
        finally:
            self._under_way -= 1
            self._bytes -= size_bytes
            self._freed.set()

    def _has_room(self, size_bytes: int) -> bool:
        return self._under_way < self._most and self._bytes + size_bytes <= self._most_bytes
