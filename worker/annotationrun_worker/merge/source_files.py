"""The files of a folder: those of a source that a merged dataset takes over, and all that an output holds."""

import os
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import DatasetError

RECORD_NAME: Final = "meta/annotationrun.json"
"""Our own record in a merged dataset: made anew by each merge, see ``record``."""

LARGE_FOLDERS: Final = frozenset({"videos", "images"})
"""Large and never written again: linked, and told apart by size; everything else is copied and hashed."""

_OF_OTHER_ROWS: Final = ("meta/lerobot_annotations.json", "meta/annotations/ownership/")
"""What LeRobot's dataset visualizer and its runtime keep beside the rows, and says what those rows are."""


def speaks_of_other_rows(relative: str) -> bool:
    """Whether the file of a source says something of its language rows, which an output does not have."""
    return relative.startswith(_OF_OTHER_ROWS)


def source_files(root: Path) -> list[tuple[str, Path]]:
    """List all files below ``root`` as (path relative to it with slashes, path), sorted by the former.

    Symbolic links are followed, the Hub's cache is made of them. Hidden folders at the top (``.git``,
    ``.cache``) are no part of a dataset; our own record, and what speaks of other rows, is left out.

    Raises:
        DatasetError: something that is neither file nor folder, a broken link, or a link in a circle.
    """
    found: dict[str, Path] = {}
    above: dict[str, frozenset[str]] = {str(root): frozenset({os.path.realpath(root)})}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        if folder == str(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            path = Path(folder, name)
            real = os.path.realpath(path)
            if real in above[folder]:
                raise DatasetError(f"{path} links to a folder that it lies in; remove the link")
            above[str(path)] = above[folder] | {real}
        for name in files:
            path = Path(folder, name)
            if not path.is_file():
                raise DatasetError(
                    f"{path} is no file, or a link that leads nowhere; is the download complete?"
                )
            found[path.relative_to(root).as_posix()] = path
    found.pop(RECORD_NAME, None)
    return sorted(item for item in found.items() if not speaks_of_other_rows(item[0]))


def entries_of(root: Path) -> dict[str, Path]:
    """Everything below ``root`` that would be lost with it: by path relative to it, with slashes.

    Hidden files and folders too, links as links; of the folders only those that hold nothing. Our own record
    is left out.

    Raises:
        OSError: a folder can't be read.
    """
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root, onerror=_raise_as_it_is):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        paths = [Path(folder, name) for name in (*files, *links)]
        if not folders and not files and folder != str(root):
            paths = [Path(folder)]
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    found.pop(RECORD_NAME, None)
    return found


def _raise_as_it_is(error: OSError) -> None:
    raise error


def _raise(error: OSError) -> None:
    raise DatasetError(f"the folder {error.filename} can't be read: {error}") from error
