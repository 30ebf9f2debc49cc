"""How far a plan is, for all workers of a store: ``progress/<plan digest>/done/<episode>``.

An episode that was given up has ``progress/<plan digest>/failed/<SHA-256 of the retry token>/<episode>``. The
objects are empty: that they are there says it. They are for counting; whether a result is there its own key
tells.
"""

from dataclasses import dataclass
from typing import Final

from annotationrun_worker.staging.digests import Digest, token_digest
from annotationrun_worker.staging.store import StagingStore

FOLDER: Final = "progress"


@dataclass(frozen=True, slots=True)
class EpisodeMarks:
    """The marks of one plan."""

    store: StagingStore
    plan: Digest
    retry_token: str = ""
    """Under a new one what was given up is tried again, and so not given up."""

    async def mark_done(self, episode: int) -> None:
        """Note that ``episode`` has all its results.

        Raises:
            StorageError: the store can't be written.
        """
        await self.store.create(f"{self._done}/{int(episode)}", b"")

    async def mark_failed(self, episode: int) -> None:
        """Note that ``episode`` was given up.

        Raises:
            StorageError: the store can't be written.
        """
        await self.store.create(f"{self._failed}/{int(episode)}", b"")

    def done_now(self) -> frozenset[int]:
        """The episodes that have all their results, at once.

        Raises:
            StorageError: the store can't be read.
        """
        return self._listed(self._done)

    def failed_now(self) -> frozenset[int]:
        """The episodes that were given up, at once; one that was done all the same is among them.

        Raises:
            StorageError: the store can't be read.
        """
        return self._listed(self._failed)

    @property
    def _done(self) -> str:
        return f"{FOLDER}/{self.plan}/done"

    @property
    def _failed(self) -> str:
        return f"{FOLDER}/{self.plan}/failed/{token_digest(self.retry_token)}"

    def _listed(self, folder: str) -> frozenset[int]:
        names = (found.path.rpartition("/")[2] for found in self.store.list_now(folder))
        return frozenset(int(name) for name in names if name.isdecimal())
