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
        """Name the store in ``folder``, which is made at the first write if it is missing."""
        self.location = str(folder)
        self._folder = folder
        self._opened: LocalStore | None = None

    def _open(self) -> LocalStore:
        if self._opened is None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._opened = LocalStore(prefix=self._folder)
            except (BaseError, OSError) as error:
                raise StorageError(
                    f"the staging folder {self.location!r} can't be made: {error}; "
                    "choose another with --staging or spec.staging"
                ) from error
        return self._opened

    def _open_if_there(self) -> LocalStore | None:
        return self._open() if self._opened is not None or self._folder.exists() else None

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
        """``read`` for code that runs in a thread of its own."""
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
        """Create the object at ``path``; False where it exists already, whatever it holds."""
        store = self._open()
        try:
            await obstore.put_async(store, path, content, mode="create")
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
