"""Files by their content, bounded in bytes, shared by all processes of a node.

A file is named by the digest of its content, so that commits share what is the same in them. Whoever uses a
file holds a shared lock on it (``flock``); what nobody uses goes, the longest unused first, when room is
needed.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import StorageError

KEPT_FREE_BYTES: Final = 1 << 30
"""Of the disk, for everything else that writes to it."""
WAIT_SECONDS: Final = 600.0
"""For room that others use."""
_LOOK_AGAIN_SECONDS: Final = 0.5
_PARTIAL: Final = ".partial"


class FileCache:
    """Files in ``folder``; safe for any number of threads and processes."""

    def __init__(self, folder: Path, max_bytes: int, wait_seconds: float = WAIT_SECONDS) -> None:
        """Nothing is read or written yet.

        Args:
            folder: on this machine; made when it is needed.
            max_bytes: of all files together.
            wait_seconds: for room that others use.
        """
        self.folder = folder
        self._max_bytes = max_bytes
        self._wait_seconds = wait_seconds
        self._reserved: dict[str, int] = {}
        self._reserving = threading.Lock()

    def path_of(self, name: str) -> Path:
        """Where the file ``name`` lies, if it is there."""
        return self.folder / "files" / name

    @contextlib.contextmanager
    def holding(self, name: str, size_bytes: int, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """Have the file ``name`` there within the context; nobody removes it meanwhile.

        Args:
            name: of the file, from its content; a plain file name.
            size_bytes: of the file.
            fetch: writes it to the path that it is given, where the beginning of it may be already.

        Raises:
            StorageError: there is no room for it, or the folder can't be written.
        """
        path = self.path_of(name)
        with self._opened_lock(name) as lock:
            while True:
                fcntl.flock(lock, fcntl.LOCK_SH)
                if path.exists():
                    break
                fcntl.flock(lock, fcntl.LOCK_EX)  # lets the shared one go first: others may be there before
                if not path.exists():
                    self._fetch(name, size_bytes, fetch)
            os.utime(path)  # last used now
            yield path

    def _fetch(self, name: str, size_bytes: int, fetch: Callable[[Path], None]) -> None:
        partial = self.path_of(f"{name}{_PARTIAL}")
        self._make_room(name, size_bytes)
        try:
            fetch(partial)
            partial.replace(self.path_of(name))
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise  # not of the disk
            raise self._failed(error) from error
        finally:
            with self._reserving:
                del self._reserved[name]

    @contextlib.contextmanager
    def _opened_lock(self, name: str) -> Iterator[int]:
        folder = self.folder / "locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "files").mkdir(exist_ok=True)
            lock = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failed(error) from error
        try:
            yield lock
        finally:
            os.close(lock)

    def _make_room(self, name: str, size_bytes: int) -> None:
        """Reserve ``size_bytes`` for ``name``, which the caller gives back."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            with self._reserving:
                lacking = self._lacking_bytes(size_bytes)
                if lacking > 0:
                    lacking -= self._evict(lacking)
                if lacking <= 0:
                    self._reserved[name] = size_bytes
                    return
            if size_bytes > self._max_bytes or time.monotonic() > deadline:
                free = shutil.disk_usage(self.folder).free
                raise StorageError(
                    f"the cache {str(self.folder)!r} has no room for a file of {size_bytes} bytes: it may "
                    f"hold {self._max_bytes} bytes, and of the {free} that are free on its disk "
                    f"{KEPT_FREE_BYTES} stay free; raise spec.source.cacheBytes, free space, or choose "
                    "another folder with --cache"
                )
            time.sleep(_LOOK_AGAIN_SECONDS)

    def _lacking_bytes(self, size_bytes: int) -> int:
        used = sum(self._reserved.values()) + sum(size for _, _, size in self._unreserved())
        free = shutil.disk_usage(self.folder).free - KEPT_FREE_BYTES
        return max(used + size_bytes - self._max_bytes, size_bytes - free)

    def _unreserved(self) -> Iterator[tuple[float, str, int]]:
        """When it was used last, name and size of each file, those begun by other processes too."""
        for entry in os.scandir(self.folder / "files"):
            if entry.name.removesuffix(_PARTIAL) in self._reserved:
                continue
            with contextlib.suppress(FileNotFoundError):  # gone since
                status = entry.stat()
                yield status.st_mtime, entry.name, status.st_size

    def _evict(self, lacking_bytes: int) -> int:
        """Remove what nobody uses, the longest unused first, until so much is gone; how much is."""
        gone = 0
        for _, name, size_bytes in sorted(self._unreserved()):
            if gone >= lacking_bytes:
                break
            with self._opened_lock(name.removesuffix(_PARTIAL)) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                self.path_of(name).unlink(missing_ok=True)
                gone += size_bytes
        return gone

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"the cache {str(self.folder)!r} can't be written: {error}; check space and permissions, or "
            "choose another folder with --cache"
        )
