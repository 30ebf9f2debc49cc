"""Whether a store creates objects only where there are none: everything that is staged relies on it.

There are S3-like stores that ignore ``If-None-Match``: two workers would overwrite each other's answers and
results there, and nothing would tell.
"""

import secrets
from contextlib import suppress
from typing import Final

from annotationrun_worker.errors import ConfigurationError, StorageError
from annotationrun_worker.staging.store import StagingStore

FOLDER: Final = "checks"
_FIRST, _SECOND = b"first", b"second"


async def check_creating(store: StagingStore) -> None:
    """Create the same object twice in an object store; a folder is not asked.

    Raises:
        ConfigurationError: the second one took the place of the first.
        StorageError: the store can't be read or written.
    """
    if store.folder is not None:
        return
    path = f"{FOLDER}/{secrets.token_hex(16)}"
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
