"""Reads every object of a staging store, and tells those that are not what was written there."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Final, cast

from annotationrun_worker.errors import StagingError
from annotationrun_worker.rows import ResultName
from annotationrun_worker.staging.answers import decode_answer
from annotationrun_worker.staging.claims import is_worker_id
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.failures import decode_failure
from annotationrun_worker.staging.heartbeats import decode_beat
from annotationrun_worker.staging.models import decode_model_commit
from annotationrun_worker.staging.once import decode_digest, parse_object
from annotationrun_worker.staging.plans import decode_named, decode_survey
from annotationrun_worker.staging.result_index import IndexedResult
from annotationrun_worker.staging.results import decode_result
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.staging.sweep import decode_merged_keys
from annotationrun_worker.staging.usage import decode_usage

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
