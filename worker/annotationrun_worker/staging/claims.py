"""Claims on results: ``claims/<k>/<n>`` holds the id of the n-th worker that took the key ``k`` on itself.

The last of the chain holds the claim. Objects are only created: who finds the last holder dead creates the
next number, and of several that try at once one succeeds. Claims are hints that save work twice, no locks: a
worker that was taken for dead may still live, so results are created, and the first one counts.
"""

import re
from typing import Final

from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.heartbeats import Liveness, WorkerId
from annotationrun_worker.staging.once import warn_unreadable
from annotationrun_worker.staging.store import StagingStore

_WORKER_ID: Final = re.compile(r"[a-z0-9-]{1,128}")
_NOBODY: Final = WorkerId("")
"""Whoever put a claim that can't be read: it counts as a dead worker's."""


def is_worker_id(text: str) -> bool:
    """Whether ``text`` looks like a ``WorkerId``."""
    return _WORKER_ID.fullmatch(text) is not None


def _folder(key: Digest) -> str:
    return f"claims/{key}"


class Claims:
    """The claims that one worker takes; its heartbeat has to be there before the first."""

    def __init__(self, store: StagingStore, me: WorkerId, liveness: Liveness) -> None:
        self._store = store
        self._me = me
        self._liveness = liveness
        self._mine: dict[Digest, int] = {}
        self.takeovers = 0
        """Claims taken from dead workers."""

    async def take(self, key: Digest) -> WorkerId | None:
        """Take ``key`` on this worker; ``None`` if it is now, else the living worker that holds it.

        That may be this worker itself, which is at it elsewhere. The result may have been staged just before
        the claim was taken: look for it again.

        Raises:
            StorageError: the store can't be read or written.
        """
        if key in self._mine:
            return self._me
        self._mine[key] = -1  # from here on, no other task of this process
        try:
            holder = await self._take(key)
        except BaseException:
            del self._mine[key]
            raise
        if holder is not None:
            del self._mine[key]
        return holder

    async def _take(self, key: Digest) -> WorkerId | None:
        while True:
            number, before = await self._last(key)
            if before == self._me:  # created by an attempt that ended in an error
                self._mine[key] = number
                return None
            if before and await self._liveness.is_alive(before):
                return before
            holder = await self._create(key, number + 1)
            if holder == self._me:
                self._mine[key] = number + 1
                self.takeovers += before is not None
                return None
            if holder:
                return holder
            # Whoever was first has released it since, or it can't be read.

    async def holder(self, key: Digest) -> WorkerId | None:
        """The living worker that holds ``key``, if it is another one; nothing is taken.

        Raises:
            StorageError: the store can't be read.
        """
        _, worker = await self._last(key)
        if not worker or worker == self._me or not await self._liveness.is_alive(worker):
            return None
        return worker

    async def release(self, key: Digest) -> None:
        """Let ``key`` go, with the whole chain; nothing happens if another worker has taken it over.

        Raises:
            StorageError: the store can't be listed or written.
        """
        number = self._mine.get(key)
        if number is None:
            return
        try:
            chain = await self._numbers(key)
            if chain and chain[-1] > number:
                return
            for one in chain:  # the last one last: until then it holds
                await self._store.delete(f"{_folder(key)}/{one}")
        finally:
            del self._mine[key]

    async def _last(self, key: Digest) -> tuple[int, WorkerId | None]:
        """Number and worker of the last holder, ``_NOBODY`` if it can't be read; -1 and ``None`` without."""
        while chain := await self._numbers(key):
            worker = await self._holder(key, chain[-1])
            if worker is not None:
                return chain[-1], worker
            # Released between the two looks.
        return -1, None

    async def _create(self, key: Digest, number: int) -> WorkerId | None:
        """Create the claim ``number``; who holds it now, ``None`` if it was released since."""
        reached(FaultPoint.BEFORE_CLAIM)
        was_first = await self._store.create(f"{_folder(key)}/{number}", self._me.encode())
        reached(FaultPoint.AFTER_CLAIM)
        return self._me if was_first else await self._holder(key, number)

    async def _holder(self, key: Digest, number: int) -> WorkerId | None:
        path = f"{_folder(key)}/{number}"
        content = await self._store.read(path)
        if content is None:
            return None
        text = content.decode(errors="replace")
        if not is_worker_id(text):
            warn_unreadable(self._store, path, f"it holds {text[:64]!r}", "it counts as a dead worker's")
            return _NOBODY
        return WorkerId(text)

    async def _numbers(self, key: Digest) -> list[int]:
        folder = _folder(key)
        names = [found.path.rpartition("/")[2] async for found in self._store.list(folder)]
        return sorted(int(name) for name in names if name.isdecimal())
