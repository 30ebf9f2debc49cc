"""The staging store, and where it lies.

Where a staging store lies: a folder, or a prefix in a bucket of an object store.

Keys, endpoint and region of an object store come from the environment (``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``GOOGLE_SERVICE_ACCOUNT``, ``AZURE_STORAGE_ACCOUNT_NAME`` ...): obstore
reads them. The location itself holds no secret, and is shown as it is.

The staging store: small objects, on a folder or an object store, shared by any number of processes.

What is staged is created once and never overwritten: two workers that make the same object race for its
creation, the loser reads what the winner wrote. What can't be read is replaced (``once.py``). Only a worker's
heartbeat and its counts of what it used are overwritten, by that worker, and the notes of what a model's
revision names, by whoever asked the Hub last.
In a folder what is created stays, wherever the power is cut.
"""

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotFoundError,
    PreconditionError,
)
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from annotationrun_worker.errors import ConfigurationError, StagingError, StorageError
from annotationrun_worker.staging.folder import SyncedFolder
from annotationrun_worker.staging.seal import NO_SEAL, Seal

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

Bucket = S3Store | GCSStore | AzureStore

_SCHEMES: Final = ("s3", "gs", "az")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

# A request to an endpoint that is dead fails within about a minute: the last try starts at the latest
# RETRY + BACKOFF after the first, and lasts TIMEOUT at most.
_CONNECT_TIMEOUT: Final = timedelta(seconds=5)
_TIMEOUT: Final = timedelta(seconds=20)  # for the largest object, a plan of some megabytes
_RETRY: Final = timedelta(seconds=30)
_BACKOFF: Final = timedelta(seconds=5)
_SHOWN_CHARACTERS: Final = 256
"""Of what an object store's client says."""


def folder_of(location: str | Path) -> Path | None:
    """The folder that ``location`` names: a path, or a ``file://`` URI; ``None`` for an object store."""
    if isinstance(location, Path):
        return location
    if "://" not in location:
        return Path(location)
    uri = urlsplit(location)
    return Path(unquote(uri.path)) if uri.scheme == "file" and not uri.netloc else None


def open_bucket(uri: str) -> Bucket:
    """The object store at ``uri``: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``.

    Nothing is asked of it yet. Creating is conditional (``If-None-Match``) in all three.

    Raises:
        ConfigurationError: the URI is none of these, holds more than that, or the environment does not do.
    """
    parts = urlsplit(uri)
    plain = not (parts.query or parts.fragment or "?" in uri or "#" in uri)
    if parts.scheme not in _SCHEMES or not _BUCKET.fullmatch(parts.netloc) or not plain:
        raise ConfigurationError(
            f"the staging location {_without_secrets(uri)!r} can't be used; expected a folder, "
            "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix "
            "(keys and endpoint go into the environment)"
        )
    try:
        return _open(parts.scheme, parts.netloc, parts.path.strip("/"))
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"the staging store {uri!r} can't be opened: {cause_of(error)}; look at the environment's "
            "credentials and settings for it"
        ) from error


def _open(scheme: str, bucket: str, prefix: str) -> Bucket:
    client: ClientConfig = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT}
    retry: RetryConfig = {
        "retry_timeout": _RETRY,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": _BACKOFF, "base": 2},
    }
    if scheme == "gs":
        return GCSStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
    if scheme == "az":
        return AzureStore(bucket, prefix=prefix, client_options=client, retry_config=retry)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        client["allow_http"] = True  # who names such an endpoint means it
    return S3Store(bucket, prefix=prefix, client_options=client, retry_config=retry, conditional_put="etag")


def cause_of(error: Exception) -> str:
    """What ``error`` says, on one line, with the server's code or the system's words.

    The queries of URLs are left out: they may hold signatures.
    """
    text = str(error)
    line = text.partition("\n")[0].partition(": <?xml")[0]
    code = re.search(r"<Code>(\w+)</Code>", text) or re.search(r'^ *message: "([^"]+)"', text, re.MULTILINE)
    line = re.sub(r"\?\S+", "?...", line)
    if len(line) > _SHOWN_CHARACTERS:  # it begins with what was done, to which URL; the cause ends it
        line = f"{line[: _SHOWN_CHARACTERS // 2]} ... {line[-_SHOWN_CHARACTERS // 2 :]}"
    return line if code is None else f"{line} ({code[1]})"


def _without_secrets(uri: str) -> str:
    return re.sub(r"//[^/]*@", "//...@", re.sub(r"[?#].*", "?...", uri))


Done = TypeVar("Done")

_LOG: Final = logging.getLogger(__name__)

_LISTED_AT_ONCE: Final = 1000  # what S3 gives in one answer
_WRITERS: Final = 8
"""Objects that a folder store writes at once: the disk syncs them together."""


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

    def __init__(self, place: Path | Bucket, location: str | None = None, seal: Seal = NO_SEAL) -> None:
        """Name the store in ``place``, a folder (made at the first write if it is missing) or a bucket.

        ``location`` is what is shown of it; without, the folder's path. With a ``seal`` that has a key, what
        has not the right one reads as empty, so as damaged.
        """
        self._seal = seal
        self.location = str(place) if location is None else location
        self._place = SyncedFolder(place) if isinstance(place, Path) else place
        self._local: LocalStore | None = None
        self._writers = ThreadPoolExecutor(_WRITERS, "staging")  # no thread before the first write

    @property
    def folder(self) -> Path | None:
        """Where it lies; ``None`` in an object store."""
        return self._place.root if isinstance(self._place, SyncedFolder) else None

    def _open(self) -> LocalStore | Bucket:
        """What is read and listed; a folder is made if it is missing."""
        if not isinstance(self._place, SyncedFolder):
            return self._place
        if self._local is None:
            try:
                self._place.make()
                self._local = LocalStore(prefix=self._place.root)
            except (BaseError, OSError) as error:
                raise StorageError(
                    f"the staging folder {self.location!r} can't be made: {error}; "
                    "choose another with --staging or spec.staging"
                ) from error
        return self._local

    def _opened(self) -> SyncedFolder | Bucket:
        """What is written."""
        self._open()
        return self._place

    async def _in_thread(self, write: Callable[[], Done]) -> Done:
        """What ``write`` gives, which waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._writers, write)

    def _open_if_there(self) -> LocalStore | Bucket | None:
        if self.folder is not None and self._local is None and not self.folder.exists():
            return None
        return self._open()

    async def read(self, path: str) -> bytes | None:
        """The object at ``path``, or ``None`` where there is none.

        Raises:
            ConfigurationError: it is sealed, and there is no key.
        """
        return self._content(path, await self._read(path))

    async def _read(self, path: str) -> bytes | None:
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
        return self._content(path, self._read_now(path))

    def _content(self, path: str, written: bytes | None) -> bytes | None:
        try:
            return None if written is None else self._seal.open(path, written)
        except StagingError as error:
            _LOG.warning("%r in %r counts as damaged: %s", path, self.location, error)
            return b""

    def _read_now(self, path: str) -> bytes | None:
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
        place, sealed = self._opened(), self._seal.seal(path, content)
        try:
            if isinstance(place, SyncedFolder):
                return await self._in_thread(lambda: place.create(path, sealed))
            await obstore.put_async(place, path, sealed, mode="create")
        except (AlreadyExistsError, FileExistsError):
            return False
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error
        return True

    async def replace(self, path: str, found: bytes, content: bytes) -> bool:
        """Write the object at ``path`` if it still holds what was ``found``, or is gone; False: it does not.

        Of several that try at once one does; in an object store without versions the last one may, too.
        False too where it was written just now and the object store lost its own answer.
        """
        place, written, sealed = self._opened(), found, self._seal.seal(path, content)
        if self._seal.key:
            there = await self._read(path)
            if there is not None and self._content(path, there) != found:
                return False
            written = b"" if there is None else there
        try:
            if isinstance(place, SyncedFolder):
                return await self._in_thread(lambda: place.replace(path, written, sealed))
            return await _replace_in(place, path, written, sealed)
        except (NotFoundError, FileNotFoundError):
            return await self.create(path, content)
        except (AlreadyExistsError, PreconditionError):
            return False
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    async def put(self, path: str, content: bytes) -> None:
        """Write the object at ``path`` over what is there, not synced: for what is soon written again."""
        place, sealed = self._opened(), self._seal.seal(path, content)
        try:
            if isinstance(place, SyncedFolder):
                await self._in_thread(lambda: place.put(path, sealed, is_synced=False))
            else:
                await obstore.put_async(place, path, sealed, mode="overwrite")
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    def put_now(self, path: str, content: bytes) -> None:
        """Write the object at ``path`` over what is there, at once and synced."""
        place, sealed = self._opened(), self._seal.seal(path, content)
        try:
            if isinstance(place, SyncedFolder):
                place.put(path, sealed)
            else:
                obstore.put(place, path, sealed, mode="overwrite")
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error

    async def delete(self, path: str) -> None:
        """Delete the object at ``path``; nothing happens where there is none."""
        if self._open_if_there() is None:
            return
        place = self._opened()
        try:
            if isinstance(place, SyncedFolder):
                await self._in_thread(lambda: place.delete(path))
            else:
                await obstore.delete_async(place, path)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            raise self._failed("delete", path, error) from error

    def delete_now(self, path: str) -> None:
        """``delete``, at once."""
        if self._open_if_there() is None:
            return
        place = self._opened()
        try:
            if isinstance(place, SyncedFolder):
                place.delete(path)
            else:
                obstore.delete(place, path)
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
            if self.folder is not None
            else "look at the bucket's name, the endpoint, credentials and permissions"
        )
        return StorageError(
            f"can't {verb} {path!r} in the staging store {self.location!r}: {cause_of(error)}; "
            f"{look}, then run again: what is staged stays"
        )


async def _replace_in(bucket: Bucket, path: str, found: bytes, content: bytes) -> bool:
    """See ``StagingStore.replace``; raises what obstore raises where another was faster."""
    response = await obstore.get_async(bucket, path)
    version: UpdateVersion = {}
    if (e_tag := response.meta["e_tag"]) is not None:
        version["e_tag"] = e_tag
    if (number := response.meta["version"]) is not None:
        version["version"] = number
    if bytes(await response.bytes_async()) != found:
        return False
    if version:
        await obstore.put_async(bucket, path, content, mode=version)
    else:
        await obstore.delete_async(bucket, path)
        await obstore.put_async(bucket, path, content, mode="create")
    return True


def open_store(location: str | Path, seal: Seal = NO_SEAL) -> StagingStore:
    """The store at ``location``: a folder (a path or ``file://``), or ``s3://``, ``gs://``, ``az://``.

    Nothing is read or written yet.

    Raises:
        ConfigurationError: it is none of these, or the environment does not do for it.
    """
    folder = folder_of(location)
    if folder is not None:
        return StagingStore(folder, seal=seal)
    uri = str(location)
    return StagingStore(open_bucket(uri), uri, seal)
