"""What can go from a staging store, and what is damaged in it.

What can go from a staging store: what killed workers left, and by choice what nobody used for long.

Results that went into a merged dataset (``merges/``) stay, whatever their age.

Reads every object of a staging store, and tells those that are not what was written there.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final, Literal, cast

from annotationrun_worker.errors import StagingError, StorageError
from annotationrun_worker.language.rows import ResultName
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.failures import decode_failure
from annotationrun_worker.staging.leases import decode_beat, is_worker_id
from annotationrun_worker.staging.once import CHECKS_FOLDER, decode_digest, parse_object, warn_unreadable
from annotationrun_worker.staging.plans import decode_model_commit, decode_named, decode_survey
from annotationrun_worker.staging.progress import decode_usage
from annotationrun_worker.staging.results import INDEX_FOLDER, IndexedResult, decode_answer, decode_result
from annotationrun_worker.staging.store import StagingStore, StoredObject

DEAD_AFTER: Final = timedelta(hours=1)
"""A worker that lives writes its heartbeat every few seconds; clocks of hosts differ by less than this."""

_TORN: Final = re.compile(r"#\d+$")
"""Ends the name of a file that a folder store was writing when its process was killed."""

Kind = Literal[
    "workers", "claims", "failures", "torn files", "answers", "results", "plans", "progress", "usage",
    "aliases", "surveys", "index", "checks",
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
    asks for those builds on these. An entry of the index goes with its result. Where the note of a merge
    can't be read, all results and answers stay: which ones it names is not known."""
    _living: set[str] = field(default_factory=set)
    _staged: set[str] = field(default_factory=set)

    def find(self) -> Iterator[Garbage]:
        """What can go, in an order in which it can be deleted while workers are at work.

        Raises:
            StorageError: the store can't be read.
        """
        yield from self._dead_workers()
        yield from self._free_claims()
        merged = self._merged_keys()
        built_on: set[str] = set()
        for found in self.store.list_now("results"):
            key = Path(found.path).stem
            if self._is_unused(found) and merged is not None and key not in merged.keys:
                yield Garbage("results", found.path, found.size_bytes)
                continue
            self._staged.add(key)
            if merged is not None and key in merged.unanswered and self.unused_days is not None:
                built_on |= _requests_of(self.store.read_now(found.path) or b"")
        yield from self._needless_failures()
        yield from self._needless_entries()
        for kind in _GO_UNUSED:
            for found in self.store.list_now(kind):
                is_kept = kind == "answers" and (merged is None or self._is_built_on(found, built_on))
                if self._is_unused(found) and not is_kept:
                    yield Garbage(kind, found.path, found.size_bytes)
        for found in self.store.list_now(CHECKS_FOLDER):
            if self._is_older(found, DEAD_AFTER):
                yield Garbage("checks", found.path, found.size_bytes)
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
        try:
            return decode_answer(self.store.read_now(answer.path) or b"").request in requests
        except StagingError:
            return False

    def _merged_keys(self) -> "MergedKeys | None":
        """Keys of the results that merges name; ``None``: what one names can't be read."""
        keys = MergedKeys()
        is_known = True
        for found in self.store.list_now("merges"):
            content = self.store.read_now(found.path)
            try:
                if content is not None:
                    keys = keys | decode_merged_keys(content)
            except StagingError as error:
                is_known = False
                warn_unreadable(
                    self.store, found.path, error,
                    "no result and no answer is deleted, as it may name any of them; merge again, or delete"
                    " it if the dataset that it stands for is gone",
                )  # fmt: skip
        return keys if is_known else None

    def _needless_failures(self) -> Iterator[Garbage]:
        for found in self.store.list_now("failures"):
            if found.path.split("/")[1] in self._staged:
                yield Garbage("failures", found.path, found.size_bytes)

    def _needless_entries(self) -> Iterator[Garbage]:
        """Entries of the index whose results have gone; one of a result that is being staged is young."""
        for found in self.store.list_now(INDEX_FOLDER):
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

    keys: frozenset[str] = frozenset()
    """All of them, and of the earlier rounds that lead to them."""
    unanswered: frozenset[str] = frozenset()
    """Of those that lack answers."""

    def __or__(self, other: "MergedKeys") -> "MergedKeys":
        """Both."""
        return MergedKeys(self.keys | other.keys, self.unanswered | other.unanswered)


def decode_merged_keys(content: bytes) -> MergedKeys:
    """The keys of the results that the note of a merge names.

    Raises:
        StagingError: it is none.
    """
    try:
        note = parse_object(content)
        keys = {str(key) for of_episode in note["results"].values() for key in of_episode.values()}
        earlier, unanswered = (map(str, note.get(name, ())) for name in ("earlierRounds", "unanswered"))
        return MergedKeys(frozenset(keys.union(earlier)), frozenset(unanswered))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StagingError(f"no record of a merge: {error!r}") from error


def _requests_of(result: bytes) -> set[str]:
    """Digests of the requests whose answers the rows of a staged result came from; its head comes first."""
    with suppress(ValueError, TypeError, AttributeError, RecursionError):
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


_AT_ONCE: Final = 16
"""Objects that are read at once."""
_BATCH: Final = 256

KEPT: Final[Mapping[str, str]] = {
    "merges": "the next merge makes it anew; until then it keeps gc from deleting results",
    "publishes": "look at the output repository's version tag, then delete it",
}
"""Folders whose objects say what nothing else does, and what to do about one that is damaged."""


@dataclass(frozen=True, slots=True)
class Checked:
    """An object that was read."""

    path: str
    content: bytes
    damage: str = ""
    """Why it is not what was written; empty: it is."""

    @property
    def kept_because(self) -> str:
        """What to do about it, where it is not to be deleted; else empty."""
        return KEPT.get(self.path.partition("/")[0], "")


def check_objects(store: StagingStore) -> Iterator[Checked]:
    """Read every object of ``store``, in no order; folders that are not ours are left alone.

    Raises:
        StorageError: the store can't be read.
    """
    with ThreadPoolExecutor(_AT_ONCE, "check") as executor:
        for folder, check in _CHECKS.items():
            paths = (found.path for found in store.list_now(folder))
            while batch := list(islice(paths, _BATCH)):
                for path, content in zip(batch, executor.map(store.read_now, batch), strict=True):
                    if content is not None:  # else it was deleted since
                        yield Checked(path, content, _damage(check, path, content))


def delete_damaged(store: StagingStore, damaged: Checked) -> bool:
    """Delete what was found ``damaged``; False: it was made anew meanwhile, or is kept.

    Raises:
        StorageError: it can't be deleted.
    """
    if damaged.kept_because or store.read_now(damaged.path) != damaged.content:
        return False
    store.delete_now(damaged.path)
    return True


def _damage(check: "_Check", path: str, content: bytes) -> str:
    try:
        check(PurePosixPath(path), content)
    except (StagingError, ValueError) as error:
        return str(error)
    return ""


_Check = Callable[[PurePosixPath, bytes], object]
"""Raises StagingError or ValueError where the content is not what belongs at the path."""


def _check_result(path: PurePosixPath, content: bytes) -> None:
    decode_result(content, cast(ResultName, path.parts[1]), Digest(path.stem))


def _check_merge(path: PurePosixPath, content: bytes) -> None:
    decode_named(content, path.stem)
    decode_merged_keys(content)


def _check_claim(path: PurePosixPath, content: bytes) -> None:
    text = content.decode(errors="replace")
    if not is_worker_id(text):
        raise ValueError(f"no worker's id: {text[:64]!r}")


def _check_entry(path: PurePosixPath, content: bytes) -> None:
    if IndexedResult.named(path.name) is None:
        raise ValueError("its name is no entry of the index")


_CHECKS: Final[Mapping[str, _Check]] = {
    "answers": lambda path, content: decode_answer(content),
    "results": _check_result,
    "index": _check_entry,
    "plans": lambda path, content: decode_named(content, path.stem),
    "surveys": lambda path, content: decode_survey(content),
    "aliases": lambda path, content: decode_digest(content),
    "models": lambda path, content: decode_model_commit(content),
    "failures": lambda path, content: decode_failure(content),
    "claims": _check_claim,
    "workers": lambda path, content: decode_beat(content),
    "usage": lambda path, content: decode_usage(content),
    "merges": _check_merge,
    "publishes": lambda path, content: parse_object(content),
}
"""By folder of the store. Marks of progress are empty objects whose names say all."""
