"""The staging store: small objects, on a folder or an object store, shared by any number of processes.

What is staged is created once and never overwritten: two workers that make the same object race for its
creation, the loser reads what the winner wrote. Only a worker's heartbeat and its counts of what it used are
overwritten, by that worker, and the notes of what a model's revision names, by whoever asked the Hub last.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore

from annotationrun_worker.errors import StorageError
from annotationrun_worker.staging.locations import Bucket, cause_of, folder_of, open_bucket

_LISTED_AT_ONCE: Final = 1000  # what S3 gives in one answer


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object, as listings show it."""

    path: str
    size_bytes: int
    last_modified: datetime
    """By the clock of the store, with its time zone."""


class StagingStore:
    """Objects by relative path; every failure of the medium is a StorageError.

    The methods that end in ``_now`` are for code that runs in a thread of its own.
    """

    def __init__(self, place: Path | Bucket, location: str | None = None) -> None:
        """Name the store in ``place``, a folder (made at the first write if it is missing) or a bucket.

        ``location`` is what is shown of it; without, the folder's path.
        """
        self.location = str(place) if location is None else location
        self._place = place
        self._local: LocalStore | None = None

    @property
    def folder(self) -> Path | None:
        """Where it lies; ``None`` in an object store."""
        return self._place if isinstance(self._place, Path) else None

    def _open(self) -> LocalStore | Bucket:
        if not isinstance(self._place, Path):
            return self._place
        if self._local is None:
            try:
                self._place.mkdir(parents=True, exist_ok=True)
                # Without the cleanup, each claim would leave an empty folder for ever.
                self._local = LocalStore(prefix=self._place, automatic_cleanup=True)
            except (BaseError, OSError) as error:
                raise StorageError(
                    f"the staging folder {self.location!r} can't be made: {error}; "
                    "choose another with --staging or spec.staging"
                ) from error
        return self._local

    def _open_if_there(self) -> LocalStore | Bucket | None:
        if isinstance(self._place, Path) and self._local is None and not self._place.exists():
            return None
        return self._open()

    async def read(self, path: str) -> bytes | None:
        """The object at ``path``, or ``None`` where there is none."""
        store = self._open_if_there()
        if store is None:
            return None
        try:
            response = await obstore.get_async(store, path)
            return bytes(await response.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    def read_now(self, path: str) -> bytes | None:
        """``read``, at once."""
        store = self._open_if_there()
        if store is None:
            return None
        try:
            return bytes(obstore.get(store, path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    async def create(self, path: str, content: bytes) -> bool:
        """Create the object at ``path``; False where it exists already, whatever it holds.

        False too where it was created just now and the object store lost its own answer, so who must know
        compares what is there with what it wrote.
        """
        store = self._open()
        try:
            await obstore.put_async(store, path, content, mode="create")
        except (AlreadyExistsError, FileExistsError):
            return False
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error
        return True

    def create_now(self, path: str, content: bytes) -> bool:
        """``create``, at once."""
        store = self._open()
        try:
            obstore.put(store, path, content, mode="create")
        except (AlreadyExistsError, FileExistsError):
            return False
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error
        return True

    async def put(self, path: str, content: bytes) -> None:
        """Write the object at ``path`` over what is there: for notes and counts, not for results."""
        store = self._open()
        try:
            await obstore.put_async(store, path, content, mode="overwrite")
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    def put_now(self, path: str, content: bytes) -> None:
        """``put``, at once."""
        store = self._open()
        try:
            obstore.put(store, path, content, mode="overwrite")
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    async def delete(self, path: str) -> None:
        """Delete the object at ``path``; nothing happens where there is none."""
        store = self._open_if_there()
        if store is None:
            return
        try:
            await obstore.delete_async(store, path)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise self._failed("delete", path, error) from error

    def delete_now(self, path: str) -> None:
        """``delete``, at once."""
        store = self._open_if_there()
        if store is None:
            return
        try:
            obstore.delete(store, path)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise self._failed("delete", path, error) from error

    async def list(self, folder: str) -> AsyncIterator[StoredObject]:
        """All objects below ``folder`` (whole path segments), in no order, as they are found."""
        store = self._open_if_there()
        if store is None:
            return
        try:
            async for batch in obstore.list(store, folder, chunk_size=_LISTED_AT_ONCE):
                for meta in batch:
                    yield StoredObject(meta["path"], meta["size"], meta["last_modified"])
        except (BaseError, OSError) as error:
            raise self._failed("list", folder, error) from error

    def list_now(self, folder: str) -> Iterator[StoredObject]:
        """``list``, at once."""
        store = self._open_if_there()
        if store is None:
            return
        try:
            for batch in obstore.list(store, folder, chunk_size=_LISTED_AT_ONCE):
                for meta in batch:
                    yield StoredObject(meta["path"], meta["size"], meta["last_modified"])
        except (BaseError, OSError) as error:
            raise self._failed("list", folder, error) from error

    def _failed(self, verb: str, path: str, error: Exception) -> StorageError:
        look = (
            "look for a full disk or missing permissions"
            if isinstance(self._place, Path)
            else "look at the bucket's name, the endpoint, credentials and permissions"
        )
        return StorageError(
            f"can't {verb} {path!r} in the staging store {self.location!r}: {cause_of(error)}; "
            f"{look}, then run again: what is staged stays"
        )


def open_store(location: str | Path) -> StagingStore:
    """The store at ``location``: a folder (a path or ``file://``), or ``s3://``, ``gs://``, ``az://``.

    Nothing is read or written yet.

    Raises:
        ConfigurationError: it is none of these, or the environment does not do for it.
    """
    folder = folder_of(location)
    if folder is not None:
        return StagingStore(folder)
    uri = str(location)
    return StagingStore(open_bucket(uri), uri)
