"""The files of a dataset, which may lie elsewhere until they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from annotationrun_worker.dataset.layout import data_files
from annotationrun_worker.errors import DatasetError


class DatasetFiles(Protocol):
    """Files below ``root`` by their paths in the dataset; safe for any number of threads."""

    @property
    def root(self) -> Path:
        """The dataset's folder on this machine, absolute; the metadata is there."""

    @property
    def commit(self) -> str:
        """SHA of the commit that they are of; empty for a folder."""

    def data_files(self) -> Sequence[Path]:
        """The parquet files that hold rows, sorted; LeRobot loads all of them."""

    def using(self, path: Path) -> AbstractContextManager[None]:
        """Have the file ``path`` there within the context.

        Raises:
            DatasetError: the dataset has no such file.
            HubAccessError, HubUnavailableError: it can't be fetched.
            StorageError: there is no room for it.
        """

    def sha256_of(self, path: Path) -> str | None:
        """What is known of its content without reading it; ``None``: nothing."""

    def version_of(self, path: Path) -> str:
        """What stands for the content of a file as long as nobody changes it; nothing is read for it.

        Raises:
            DatasetError: the dataset has no such file.
        """

    def give_up(self) -> None:
        """Fetch nothing more; threads that fetch or wait for a file end soon, with an error."""


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """A dataset in a folder: all is there."""

    root: Path
    commit: str = ""

    def data_files(self) -> Sequence[Path]:
        """See ``DatasetFiles.data_files``."""
        return data_files(self.root)

    @contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """See ``DatasetFiles.using``."""
        yield

    def sha256_of(self, path: Path) -> str | None:
        """See ``DatasetFiles.sha256_of``."""
        return None

    def version_of(self, path: Path) -> str:
        """See ``DatasetFiles.version_of``: its place in the dataset, its size and time of change."""
        try:
            found = path.stat()
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error}; check permissions") from error
        return f"{path.relative_to(self.root).as_posix()} {found.st_size} {found.st_mtime_ns}"

    def give_up(self) -> None:
        """See ``DatasetFiles.give_up``."""
