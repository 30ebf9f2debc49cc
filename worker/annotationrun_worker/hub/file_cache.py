"""Files by their content, bounded in bytes, shared by all processes of a node.

A file is named by the digest of its content, so that commits share what is the same in them. There are:

- ``files/<name>``, and ``files/<name>.partial``, the beginning of one that is being fetched, or was;
- ``locks/<name>``: whoever uses or fetches the file holds a shared lock (``flock``) on it; what nobody uses
  goes, the longest unused first, when room is needed;
- ``locks/<name>.fetch``: held by whoever fetches it;
- ``reserved/<name>``: how many bytes it will have, while it is fetched; ``locks/room`` is held by whoever
  reserves, so that all processes together keep to the bound.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import HubUnavailableError, StorageError

KEPT_FREE_BYTES: Final = 1 << 30
"""Of the disk, for everything else that writes to it."""
WAIT_SECONDS: Final = 600.0
"""For room that others use."""
_LOOK_AGAIN_SECONDS: Final = 0.2
_PARTIAL: Final = ".partial"
_FETCH: Final = ".fetch"
_ROOM: Final = "room"


@dataclass(slots=True)
class _Kept:
    """What is there of a file."""

    used_at: float = 0.0
    there_bytes: int = 0
    reserved_bytes: int = 0

    @property
    def counted_bytes(self) -> int:
        return max(self.there_bytes, self.reserved_bytes)


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
        self.max_bytes = max_bytes
        self.stopped = threading.Event()
        """Whoever waits here for a file, or fetches one, gives up once it is set."""
        self._wait_seconds = wait_seconds

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
            HubUnavailableError: the wait for it was given up, see ``stopped``.
        """
        path = self.path_of(name)
        with self._opened_lock(name) as use:
            with self._as_ours():
                fcntl.flock(use, fcntl.LOCK_SH)  # waits for nothing but the removal of this very file
            if not _has_size(path, size_bytes):
                with self._fetching(name):
                    if not _has_size(path, size_bytes):
                        self._fetch(name, size_bytes, fetch)
            with self._as_ours():
                os.utime(path)  # last used now
            yield path

    def _fetch(self, name: str, size_bytes: int, fetch: Callable[[Path], None]) -> None:
        self._reserve(name, size_bytes)
        partial = self.path_of(f"{name}{_PARTIAL}")
        try:
            with self._as_ours():
                fetch(partial)
                partial.replace(self.path_of(name))
        finally:
            (self.folder / "reserved" / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _fetching(self, name: str) -> Iterator[None]:
        """Be the only one that fetches ``name``; whoever is at it already is waited for."""
        with self._opened_lock(f"{name}{_FETCH}") as lock:
            while not self._try_lock(lock):
                self._wait(f"for the file {name} that another process fetches")
            yield

    def _reserve(self, name: str, size_bytes: int) -> None:
        """Make room for ``name``, and keep it until ``reserved/<name>`` goes."""
        deadline = time.monotonic() + self._wait_seconds
        while True:
            with self._opened_lock(_ROOM) as room, self._as_ours():
                fcntl.flock(room, fcntl.LOCK_EX)
                lacking, used = self._lacking_bytes(name, size_bytes)
                while lacking > 0 and self._evict(name, lacking):
                    lacking, used = self._lacking_bytes(name, size_bytes)
                if lacking <= 0:
                    (self.folder / "reserved" / name).write_bytes(b"%d" % size_bytes)
                    return
            if lacking > used or time.monotonic() > deadline:
                raise self._no_room(size_bytes, used)
            self._wait("for room that others use")

    def _wait(self, what: str) -> None:
        if self.stopped.wait(_LOOK_AGAIN_SECONDS):
            raise HubUnavailableError(f"the wait {what} was given up, as the run ends")

    def _lacking_bytes(self, name: str, size_bytes: int) -> tuple[int, int]:
        """How many bytes have to go before ``name`` fits, and how many the other files have."""
        kept = self._kept()
        mine = kept.pop(name, _Kept())
        used = sum(file.counted_bytes for file in kept.values())
        to_come = sum(file.counted_bytes - file.there_bytes for file in kept.values())
        free = shutil.disk_usage(self.folder).free - KEPT_FREE_BYTES - to_come
        return max(used + size_bytes - self.max_bytes, size_bytes - mine.there_bytes - free), used

    def _kept(self) -> dict[str, _Kept]:
        """All files by name, whole, begun and reserved."""
        kept: dict[str, _Kept] = {}
        # In this order: what is whole between the two looks was reserved until then.
        for entry in os.scandir(self.folder / "reserved"):
            with contextlib.suppress(FileNotFoundError, ValueError):  # gone since; cut by a full disk
                kept.setdefault(entry.name, _Kept()).reserved_bytes = int(Path(entry).read_bytes())
        for entry in os.scandir(self.folder / "files"):
            with contextlib.suppress(FileNotFoundError):  # gone since
                status = entry.stat()
                file = kept.setdefault(entry.name.removesuffix(_PARTIAL), _Kept())
                file.used_at = max(file.used_at, status.st_mtime)
                file.there_bytes += status.st_size
        return kept

    def _evict(self, but: str, lacking_bytes: int) -> int:
        """Remove what nobody uses, the longest unused first, until so much is gone; how much is."""
        gone = 0
        for name, file in sorted(self._kept().items(), key=lambda item: item[1].used_at):
            if gone >= lacking_bytes:
                break
            if name == but:
                continue
            with self._opened_lock(name) as use:
                if self._try_lock(use):
                    self._remove(name)
                    gone += file.counted_bytes
        return gone

    def _remove(self, name: str) -> None:
        for path in (
            self.path_of(name),
            self.path_of(f"{name}{_PARTIAL}"),
            self.folder / "reserved" / name,
        ):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened_lock(self, name: str) -> Iterator[int]:
        with self._as_ours():
            for folder in ("locks", "files", "reserved"):
                (self.folder / folder).mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            yield lock
        finally:
            os.close(lock)

    def _try_lock(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @contextlib.contextmanager
    def _as_ours(self) -> Iterator[None]:
        """What this machine's disk refuses, told as it is."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise  # the Hub's: huggingface_hub makes OSErrors of its answers
            raise StorageError(
                f"the cache {str(self.folder)!r} can't be written: {error}; check space and permissions, or "
                "choose another folder with --cache"
            ) from error

    def _no_room(self, size_bytes: int, used_bytes: int) -> StorageError:
        free = shutil.disk_usage(self.folder).free
        return StorageError(
            f"the cache {str(self.folder)!r} has no room for a file of {size_bytes} bytes: it may hold "
            f"{self.max_bytes} bytes, {used_bytes} are in use, and of the {free} that are free on its disk "
            f"{KEPT_FREE_BYTES} stay free; raise spec.source.cacheBytes, free space, or choose another "
            "folder with --cache"
        )


def _has_size(path: Path, size_bytes: int) -> bool:
    """Whether ``path`` is there, and whole: a machine that lost its power may leave less of it."""
    try:
        return path.stat().st_size == size_bytes
    except FileNotFoundError:
        return False
