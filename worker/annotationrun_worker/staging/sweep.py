"""What can go from a staging store: what killed workers left, and by choice what nobody used for long.

Results that went into a merged dataset (``merges/``) stay, whatever their age.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from annotationrun_worker.errors import StagingError, StorageError
from annotationrun_worker.staging import result_index
from annotationrun_worker.staging.result_index import IndexedResult
from annotationrun_worker.staging.store import StagingStore, StoredObject

DEAD_AFTER: Final = timedelta(hours=1)
"""A worker that lives writes its heartbeat every few seconds; clocks of hosts differ by less than this."""

_TORN: Final = re.compile(r"#\d+$")
"""Ends the name of a file that a folder store was writing when its process was killed."""

Kind = Literal[
    "workers", "claims", "failures", "torn files", "answers", "results", "plans", "progress", "usage",
    "aliases", "surveys", "index",
]  # fmt: skip
_GO_UNUSED: Final[Sequence[Kind]] = ("answers", "plans", "progress", "usage", "aliases", "surveys")
"""Folders of the store whose objects go when nobody used them for long."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """An object that can go."""

    kind: Kind
    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Sweep:
    """Finds what can go."""

    store: StagingStore
    now: datetime
    """With its time zone."""
    unused_days: int | None = None
    """Answers, plans with their progress, counts of requests, aliases, and results that no merge names, go
    when they are older; ``None``: they stay. The answers of a merged result that lacks others stay too: who
    asks for those builds on these. An entry of the index goes with its result."""
    _living: set[str] = field(default_factory=set)
    _staged: set[str] = field(default_factory=set)

    def find(self) -> Iterator[Garbage]:
        """What can go, in an order in which it can be deleted while workers are at work.

        Raises:
            StorageError: the store can't be read.
            StagingError: a record of a merge can't be.
        """
        yield from self._dead_workers()
        yield from self._free_claims()
        merged = self._merged_keys()
        built_on: set[str] = set()
        for found in self.store.list_now("results"):
            key = Path(found.path).stem
            if self._is_unused(found) and key not in merged.keys:
                yield Garbage("results", found.path, found.size_bytes)
                continue
            self._staged.add(key)
            if key in merged.unanswered and self.unused_days is not None:
                built_on |= _requests_of(self.store.read_now(found.path) or b"")
        yield from self._needless_failures()
        yield from self._needless_entries()
        for kind in _GO_UNUSED:
            for found in self.store.list_now(kind):
                is_kept = kind == "answers" and self._is_built_on(found, built_on)
                if self._is_unused(found) and not is_kept:
                    yield Garbage(kind, found.path, found.size_bytes)
        yield from self._torn_files()

    def _is_older(self, found: StoredObject, age: timedelta) -> bool:
        return self.now - found.last_modified > age

    def _is_unused(self, found: StoredObject) -> bool:
        return self.unused_days is not None and self._is_older(found, timedelta(days=self.unused_days))

    def _dead_workers(self) -> Iterator[Garbage]:
        for found in self.store.list_now("workers"):
            if self._is_older(found, DEAD_AFTER):
                yield Garbage("workers", found.path, found.size_bytes)
            else:
                self._living.add(found.path.removeprefix("workers/"))

    def _free_claims(self) -> Iterator[Garbage]:
        for found in self.store.list_now("claims"):
            if not self._is_older(found, DEAD_AFTER):
                continue
            holder = (self.store.read_now(found.path) or b"").decode(errors="replace")
            if holder not in self._living:
                yield Garbage("claims", found.path, found.size_bytes)

    def _is_built_on(self, answer: StoredObject, requests: set[str]) -> bool:
        """Whether a staged answer is to one of ``requests``."""
        if not requests or not self._is_unused(answer):
            return False
        with suppress(ValueError, KeyError, TypeError):
            return json.loads(self.store.read_now(answer.path) or b"")["request"] in requests
        return False

    def _merged_keys(self) -> "MergedKeys":
        merged = MergedKeys()
        for found in self.store.list_now("merges"):
            content = self.store.read_now(found.path)
            try:
                note = json.loads(content or b"{}")
                merged.keys.update(key for of_one in note["results"].values() for key in of_one.values())
                merged.keys.update(note.get("earlierRounds", ()))
                merged.unanswered.update(note.get("unanswered", ()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise StagingError(
                    f"{found.path!r} in {self.store.location!r} is no record of a merge ({error!r}); delete "
                    "it if the dataset that it stands for is gone"
                ) from error
        return merged

    def _needless_failures(self) -> Iterator[Garbage]:
        for found in self.store.list_now("failures"):
            if found.path.split("/")[1] in self._staged:
                yield Garbage("failures", found.path, found.size_bytes)

    def _needless_entries(self) -> Iterator[Garbage]:
        """Entries of the index whose results have gone; one of a result that is being staged is young."""
        for found in self.store.list_now(result_index.FOLDER):
            entry = IndexedResult.named(Path(found.path).name)
            if (entry is None or entry.key not in self._staged) and self._is_older(found, DEAD_AFTER):
                yield Garbage("index", found.path, found.size_bytes)

    def _torn_files(self) -> Iterator[Garbage]:
        if self.store.folder is None:
            return
        for folder, _, names in os.walk(self.store.folder):
            for name in names:
                path = Path(folder, name)
                if _TORN.search(name) and path.stat().st_mtime < (self.now - DEAD_AFTER).timestamp():
                    yield Garbage(
                        "torn files", path.relative_to(self.store.folder).as_posix(), path.stat().st_size
                    )


@dataclass(frozen=True, slots=True)
class MergedKeys:
    """Keys of results that went into merged datasets."""

    keys: set[str] = field(default_factory=set)
    """All of them, and of the earlier rounds that lead to them."""
    unanswered: set[str] = field(default_factory=set)
    """Of those that lack answers."""


def _requests_of(result: bytes) -> set[str]:
    """Digests of the requests whose answers the rows of a staged result came from; its head comes first."""
    with suppress(ValueError, TypeError, AttributeError):
        rows = [json.loads(line) for line in result.decode().split("\n")[1:] if line]
        return {str(row["request"]) for row in rows if row.get("request")}
    return set()


def delete(store: StagingStore, garbage: Garbage) -> None:
    """Delete ``garbage``; nothing happens if it has gone.

    Raises:
        StorageError: it can't be deleted.
    """
    if garbage.kind == "torn files" and store.folder is not None:
        try:
            (store.folder / garbage.path).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"can't delete {garbage.path!r} in {store.location!r}: {error}") from error
        return
    store.delete_now(garbage.path)
