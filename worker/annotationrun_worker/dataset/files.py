"""The files of a dataset, which may lie elsewhere until they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from annotationrun_worker.dataset.layout import data_files


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

    def give_up(self) -> None:
        """See ``DatasetFiles.give_up``."""
