"""What a dataset on the Hub holds."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from annotationrun_worker.hub.cache import HubMirror
from annotationrun_worker.output.record import (
    LARGE_FOLDERS,
    RECORD_NAME,
    FileMark,
    SourceTree,
    mark_file,
    speaks_of_other_rows,
)

CARD_NAME: Final = "README.md"


def hub_tree(mirror: HubMirror) -> SourceTree:
    """The dataset of ``mirror``; files outside of LFS are fetched, as only their bytes tell their SHA-256.

    The card and what belongs to Git is left out: that is the repository's, not the dataset's.

    Raises:
        DatasetError, HubAccessError, HubUnavailableError, StorageError: see ``HubMirror.hold``.
    """
    names = [name for name in sorted(mirror.files) if _is_of_dataset(name)]
    files = [(name, mirror.root / name) for name in names]
    mirror.hold([name for name in names if mirror.files[name].sha256 is None and not _is_large(name)])
    return SourceTree(mirror.root, files, dict(_hub_marks(mirror, files)))


def _hub_marks(mirror: HubMirror, files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, FileMark]]:
    for name, path in files:
        file = mirror.files[name]
        if _is_large(name):
            yield name, file.size_bytes
        else:
            yield name, file.sha256 or mark_file(name, path)


def _is_large(name: str) -> bool:
    return name.split("/", 1)[0] in LARGE_FOLDERS


def _is_of_dataset(name: str) -> bool:
    return (
        not name.startswith(".") and name not in {CARD_NAME, RECORD_NAME} and not speaks_of_other_rows(name)
    )
