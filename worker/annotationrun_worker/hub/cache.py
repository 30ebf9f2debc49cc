"""Files of the Hub on this machine: the cache that all processes share, and datasets as folders of links.

Files by their content, bounded in bytes, shared by all processes of a node.

A file is named by the digest of its content, so that commits share what is the same in them. There are:

- ``files/<name>``, and ``files/<name>.partial``, the beginning of one that is being fetched, or was;
- ``locks/<name>``: whoever uses or fetches the file holds a shared lock (``flock``) on it; what nobody uses
  goes, the longest unused first, when room is needed;
- ``locks/<name>.fetch``: held by whoever fetches it;
- ``reserved/<name>``: how many bytes it will have, while it is fetched; ``locks/room`` is held by whoever
  reserves, so that all processes together keep to the bound.

A dataset on the Hub as a folder of this machine, whose files come when they are needed.

``<cache>/datasets/<owner>--<name>/<commit>`` holds the paths of one commit, as symbolic links to the files of
the cache. ``meta/`` is there as long as the mirror is open, all other files while somebody uses them.
"""

import contextlib
import fcntl
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.errors import ConfigurationError, DatasetError, HubUnavailableError, StorageError
from annotationrun_worker.hub.repository import HubFile, HubRepository

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


META: Final = "meta/"
_FETCHED_AT_ONCE: Final = 8
_OTHER_OPEN_FILES: Final = 256
"""Beside the locks on files of the cache, of which each is an open file."""


class HubMirror:
    """One commit of a dataset repository; see ``DatasetFiles``."""

    def __init__(
        self, repository: HubRepository, commit: str, files: Mapping[str, HubFile], cache: FileCache
    ) -> None:
        """Nothing is fetched yet; see ``open_mirror``."""
        self.repository = repository
        self.commit = commit
        self.files = files
        """Of the commit, by path."""
        owner_and_name = repository.repo_id.replace("/", "--")
        self.root = (cache.folder / "datasets" / owner_and_name / commit).absolute()
        self._cache = cache
        self._held = contextlib.ExitStack()
        self._locks = 0

    def data_files(self) -> Sequence[Path]:
        """See ``DatasetFiles.data_files``."""
        return [self.root / name for name in sorted(self.files) if is_data_file(name)]

    @contextlib.contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Have the file ``path`` there within the context; see ``DatasetFiles.using``."""
        file = self._file(path)

        def fetch(target: Path) -> None:
            self.repository.download(file, self.commit, target, self._cache.stopped)

        with self._cache.holding(file.content_name, file.size_bytes, fetch) as content:
            try:
                _link(path, content)
            except OSError as error:
                raise StorageError(
                    f"{str(path)!r} can't be made a link to the file that was fetched: {error}; choose "
                    "another folder with --cache"
                ) from error
            yield

    def hold(self, paths: Sequence[str]) -> None:
        """Have these files of the commit there until the mirror is closed.

        Raises:
            DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``DatasetFiles.using``.
        """
        self.check_room(paths)
        self._locks += len(paths)
        _allow_open_files(self._locks + _OTHER_OPEN_FILES)
        with ThreadPoolExecutor(_FETCHED_AT_ONCE, "fetch") as executor:
            try:
                for held in executor.map(self._begin, paths):
                    self._held.push(held)
            except BaseException:
                self.give_up()
                raise

    def give_up(self) -> None:
        """End soon what is being fetched, and fetch nothing more: see ``DatasetFiles.give_up``."""
        self._cache.stopped.set()

    def sha256_of(self, path: Path) -> str | None:
        """See ``DatasetFiles.sha256_of``: that of files in LFS."""
        return self._file(path).sha256

    def version_of(self, path: Path) -> str:
        """See ``DatasetFiles.version_of``: the name of its content on the Hub."""
        return self._file(path).content_name

    def close(self) -> None:
        """Hold nothing any more."""
        self._held.close()

    def check_room(self, paths: Sequence[str]) -> None:
        """See whether all these files of the commit may be in the cache at once; nothing is fetched.

        Raises:
            ConfigurationError: they may not.
        """
        sizes = {file.content_name: file.size_bytes for file in map(self.files.__getitem__, paths)}
        total, bound = sum(sizes.values()), self._cache.max_bytes
        if total > bound:
            raise ConfigurationError(
                f"{len(paths)} files of dataset {self.repository.repo_id!r} are needed at once, {total} "
                f"bytes, and the cache may hold {bound}; raise spec.source.cacheBytes"
            )

    def _begin(self, path: str) -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.using(self.root / path))
            return stack.pop_all()

    def _file(self, path: Path) -> HubFile:
        relative = path.relative_to(self.root).as_posix()
        file = self.files.get(relative)
        if file is None:
            raise DatasetError(
                f"dataset {self.repository.repo_id!r} has no file {relative!r} at {self.commit}; "
                "is it complete?"
            )
        return file


@contextlib.contextmanager
def open_mirror(repository: HubRepository, commit: str, cache: FileCache) -> Iterator[HubMirror]:
    """A mirror of ``commit`` with its ``meta/``, closed with the context.

    Raises:
        DatasetError: it is no dataset of LeRobot: there is no ``meta/``.
        HubAccessError, HubUnavailableError, StorageError: see ``HubMirror.hold``.
    """
    mirror = HubMirror(repository, commit, repository.files(commit), cache)
    with contextlib.closing(mirror):
        metadata = [path for path in mirror.files if path.startswith(META)]
        if not metadata:
            raise DatasetError(
                f"dataset {repository.repo_id!r} at {commit} has no folder meta/; expected a dataset of "
                "LeRobot v3.0"
            )
        mirror.hold(metadata)
        yield mirror


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit, usually 1024, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _link(path: Path, content: Path) -> None:
    """Make ``path`` a symbolic link to ``content``, whatever it was."""
    target = os.path.relpath(content, path.parent)
    with contextlib.suppress(OSError):
        if str(path.readlink()) == target:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    link = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    link.symlink_to(target)
    link.replace(path)
