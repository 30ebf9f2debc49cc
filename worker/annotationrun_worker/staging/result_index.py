"""Which results are staged, found by what a plan knows without reading a frame: ``index/<module>/<name>``.

The name of an entry says everything, and the object is empty: listing a module's entries is enough, however
many episodes there are. An entry is a hint: work is planned by it, and whoever makes or merges results looks
for them by their own keys.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from annotationrun_worker.rows import ResultName
from annotationrun_worker.staging.digests import Digest, is_digest
from annotationrun_worker.staging.results import ModuleResult
from annotationrun_worker.staging.store import StagingStore

FOLDER: Final = "index"


@dataclass(frozen=True, slots=True)
class IndexedResult:
    """What an entry says of a result."""

    quick_key: Digest
    """Its key with the quick fingerprint of the episode in place of the fingerprint."""
    key: Digest
    retry_token: Digest
    """Digest of the retry token under which it was made."""
    asked: int
    """Questions, those without a usable answer among them."""
    unanswered: int

    @classmethod
    def of(cls, quick_key: Digest, result: ModuleResult) -> Self:
        """The entry for ``result``."""
        return cls(quick_key, result.key, result.retry_token, result.asked, len(result.holes))

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The entry of that name; ``None``: it is none."""
        parts = name.split(".")
        if len(parts) != 5 or not all(map(is_digest, parts[:3])) or not all(map(str.isdecimal, parts[3:])):
            return None
        quick_key, key, token = map(Digest, parts[:3])
        return cls(quick_key, key, token, *map(int, parts[3:]))

    @property
    def name(self) -> str:
        """Of the object."""
        return f"{self.quick_key}.{self.key}.{self.retry_token}.{self.asked}.{self.unanswered}"


@dataclass(slots=True)
class ResultIndex:
    """The entries of a store; one listing a module, when its first entry is added or read."""

    store: StagingStore
    _names: dict[ResultName, set[str]] = field(default_factory=dict)
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, module: ResultName, entry: IndexedResult) -> None:
        """Note ``entry``, unless it is there.

        Raises:
            StorageError: the store can't be read or written.
        """
        async with self._listing:
            if module not in self._names:
                self._names[module] = {
                    _last(found.path) async for found in self.store.list(f"{FOLDER}/{module}")
                }
        names = self._names[module]
        if entry.name not in names:
            names.add(entry.name)
            await self.store.create(f"{FOLDER}/{module}/{entry.name}", b"")

    def read_now(self, module: ResultName) -> Mapping[Digest, Sequence[IndexedResult]]:
        """The entries of the results that are staged, by quick key; an empty one is not: power was cut.

        Raises:
            StorageError: the store can't be read.
        """
        staged = {
            _last(found.path).removesuffix(".jsonl")
            for found in self.store.list_now(f"results/{module}")
            if found.size_bytes
        }
        entries: dict[Digest, list[IndexedResult]] = {}
        for found in self.store.list_now(f"{FOLDER}/{module}"):
            entry = IndexedResult.named(_last(found.path))
            if entry is not None and entry.key in staged:
                entries.setdefault(entry.quick_key, []).append(entry)
        return entries


def _last(path: str) -> str:
    return path.rpartition("/")[2]
