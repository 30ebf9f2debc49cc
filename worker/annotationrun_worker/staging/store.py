"""The staging store: small objects, created once and never overwritten, on a folder (object stores later).

Two workers that make the same object race for its creation; the loser reads what the winner wrote.
"""

from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore

from annotationrun_worker.errors import StorageError


class StagingStore:
    """Objects by relative path; every failure of the medium is a StorageError."""

    def __init__(self, folder: Path) -> None:
        """Open the store in ``folder``, which is made if it is missing."""
        self.location = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"the staging folder {self.location!r} can't be made: {error.strerror}; "
                "choose another with --staging or spec.staging"
            ) from error
        self._store = LocalStore(prefix=folder)

    async def read(self, path: str) -> bytes | None:
        """The object at ``path``, or ``None`` where there is none."""
        try:
            response = await obstore.get_async(self._store, path)
            return bytes(await response.bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    def read_now(self, path: str) -> bytes | None:
        """``read`` for code that runs in a thread of its own."""
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._failed("read", path, error) from error

    async def create(self, path: str, content: bytes) -> bool:
        """Create the object at ``path``; False where it exists already, whatever it holds."""
        try:
            await obstore.put_async(self._store, path, content, mode="create")
        except (AlreadyExistsError, FileExistsError):
            return False
        except (BaseError, OSError) as error:
            raise self._failed("write", path, error) from error
        return True

    def _failed(self, verb: str, path: str, error: Exception) -> StorageError:
        cause = str(error).partition("\n")[0][:256]
        return StorageError(
            f"can't {verb} {path!r} in the staging store {self.location!r}: {cause}; "
            "look for a full disk or missing permissions, then run again: what is staged stays"
        )
