"""Objects that are created once, and whether a store can do that.

Objects that are created once, and made anew where what lies there can't be read.

A power cut, a full disk or a bad medium leaves an object empty or cut. It counts as absent: a warning names
it, and whoever makes it next replaces it.

Whether a store creates objects only where there are none: everything that is staged relies on it.

There are S3-like stores that ignore ``If-None-Match``: two workers would overwrite each other's answers and
results there, and nothing would tell.
"""

import json
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from annotationrun_worker.errors import ConfigurationError, StagingError, StorageError
from annotationrun_worker.staging.digests import Digest, is_digest
from annotationrun_worker.staging.store import StagingStore

Value = TypeVar("Value")

_LOG: Final = logging.getLogger(__name__)
_TRIES: Final = 10
"""At an object that others delete or damage each time."""


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object that ``content`` holds.

    Raises:
        ValueError: it holds something else, or is nested deeper than anything that is staged.
    """
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, not {str(value)[:64]!r}")
    return value


def warn_unreadable(store: StagingStore, path: str, cause: object, consequence: str) -> None:
    """Say in the log that the object at ``path`` can't be read, and what comes of it."""
    _LOG.warning("%r in %r can't be read (%s); %s", path, store.location, cause, consequence)


def decoded(
    store: StagingStore, path: str, content: bytes | None, decode: Callable[[bytes], Value]
) -> Value | None:
    """What ``decode`` makes of the object at ``path``; ``None``: there is none, or it can't be read.

    ``decode`` raises StagingError for the latter, and the log names the object.
    """
    if content is None:
        return None
    try:
        return decode(content)
    except StagingError as error:
        warn_unreadable(store, path, error, "it counts as absent, and is made anew")
        return None


def decode_digest(content: bytes) -> Digest:
    """Read staged bytes that are a digest and nothing else.

    Raises:
        StagingError: they are something else.
    """
    text = content.decode(errors="replace")
    if not is_digest(text):
        raise StagingError(f"it holds {text[:64]!r}, expected a SHA-256")
    return Digest(text)


async def create_once(
    store: StagingStore, path: str, content: bytes, decode: Callable[[bytes], Value]
) -> Value | None:
    """Create the object at ``path``; ``None`` if it holds ``content`` now, else what another put there first.

    An object that ``decode`` refuses (StagingError) is replaced, by one of those that find it so.

    Raises:
        StorageError: the store can't be read or written, or gives another answer each time.
    """
    for _ in range(_TRIES):
        if await store.create(path, content):
            return None
        found = await store.read(path)
        if found is None:  # deleted since
            continue
        try:
            return decode(found)
        except StagingError as error:
            warn_unreadable(store, path, error, "it is replaced")
        if await store.replace(path, found, content):
            return None
    raise StorageError(
        f"{path!r} in {store.location!r} is gone or can't be read each time that it was just written; "
        "look who else writes there"
    )


CHECKS_FOLDER: Final = "checks"
_FIRST, _SECOND = b"first", b"second"


async def check_creating(store: StagingStore) -> None:
    """Create the same object twice in an object store; a folder is not asked.

    Raises:
        ConfigurationError: the second one took the place of the first.
        StorageError: the store can't be read or written.
    """
    if store.folder is not None:
        return
    path = f"{CHECKS_FOLDER}/{secrets.token_hex(16)}"
    try:
        await store.create(path, _FIRST)
        is_created_twice = await store.create(path, _SECOND)
        content = await store.read(path)
    finally:
        with suppress(StorageError):  # what stays goes with the next gc
            await store.delete(path)
    if is_created_twice or content != _FIRST:
        raise ConfigurationError(
            f"the staging store {store.location!r} overwrites an object that was to be created only where "
            "there is none: it ignores the header If-None-Match, so workers would overwrite each other's "
            "answers; expected 412 Precondition Failed for the second of two writes; use a store that obeys "
            "the header, as Amazon S3 does, or a folder"
        )
