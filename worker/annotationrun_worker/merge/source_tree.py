"""What a source holds: its files, and what stands for the content of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.merge.record import FileMark, MergeRecord, mark_file, record_of_changed
from annotationrun_worker.merge.source_files import source_files
from annotationrun_worker.staging.digests import Digest, digest_json


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A dataset, file by file."""

    root: Path
    files: Sequence[tuple[str, Path]]
    """Path relative to the dataset, and where it lies (or will, when it is fetched), sorted by the former."""
    marks: Mapping[str, FileMark]
    """Of these files."""

    @property
    def record(self) -> MergeRecord | None:
        """Of a dataset that we changed and nobody else since; else ``None``.

        Raises:
            OutputError, DatasetError: see ``record_of_changed``.
        """
        return record_of_changed(self.root, self.marks)

    def identity(self, *, is_output: bool) -> Digest:
        """What stands for the content; of a dataset that is output too, that from before our first change.

        Raises:
            OutputError, DatasetError: see ``record_of_changed``.
        """
        record = self.record if is_output else None
        if record is not None and record.source_identity is not None:
            return Digest(record.source_identity)
        return digest_json(self.marks)


def folder_tree(root: Path) -> SourceTree:
    """The dataset in the folder ``root``.

    Raises:
        DatasetError: it holds something that is no file, or a file can't be read.
    """
    try:
        files = source_files(root)
        return SourceTree(root, files, {name: mark_file(name, path) for name, path in files})
    except OSError as error:
        raise DatasetError(f"can't read the source: {error}; check permissions") from error


def source_identity(source: Path, output: Path) -> Digest:
    """The identity of the folder ``source`` in the digest of a change that goes to ``output``.

    Raises:
        DatasetError, OutputError: see ``folder_tree`` and ``SourceTree.identity``.
    """
    source = source.resolve()
    return folder_tree(source).identity(is_output=source == output.resolve())
