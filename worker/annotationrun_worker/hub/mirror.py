"""A dataset on the Hub as a folder of this machine, whose files come when they are needed.

``<cache>/datasets/<owner>--<name>/<commit>`` holds the paths of one commit, as symbolic links to the files of
the cache. ``meta/`` is there as long as the mirror is open, all other files while somebody uses them.
"""

import contextlib
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from annotationrun_worker.dataset.layout import is_data_file
from annotationrun_worker.errors import ConfigurationError, DatasetError, StorageError
from annotationrun_worker.hub.file_cache import FileCache
from annotationrun_worker.hub.repository import HubFile, HubRepository

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
