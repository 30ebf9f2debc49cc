"""The journal of a merge in place: which files take which places. Once it is there, the merge will be done.

All new files lie complete in ``.annotationrun/new`` of the dataset, named by their paths. The journal lists
each with its SHA-256, and with that of the file whose place it takes; it is hashed itself, and renamed to its
name when it is durable. What is killed before then has changed nothing, and is thrown away; what is killed
after it is rolled forward by the next command. A file that has its place already is left there.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from annotationrun_worker.dataset.layout import OUR_FOLDER
from annotationrun_worker.errors import OutputError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.merge.placement import sync_folder
from annotationrun_worker.staging.digests import canonical_json, digest_json

WORK_FOLDER: Final = OUR_FOLDER
"""Of a merge in place, in the dataset: on its file system, and hidden from everything that reads datasets."""
NEW_FOLDER: Final = f"{WORK_FOLDER}/new"
_JOURNAL: Final = f"{WORK_FOLDER}/journal.json"
_UNFINISHED: Final = f"{WORK_FOLDER}/journal.json.partial"


@dataclass(frozen=True, slots=True)
class Rename:
    """One file that takes its place."""

    path: str
    """Relative to the dataset, with slashes."""
    new: str
    """SHA-256 of the new file, hex digits."""
    old: str | None
    """SHA-256 of the file that is there; ``None``: there is none."""


def write_journal(root: Path, renames: Sequence[Rename]) -> None:
    """Write the journal, durably: from here on the merge can only be completed.

    Raises:
        OSError: it can't be written; then it does not count.
    """
    body = [asdict(rename) for rename in renames]
    content = canonical_json({"renames": body, "sha256": digest_json(body)})
    half = len(content) // 2
    partial = root / _UNFINISHED
    with partial.open("wb") as file:
        file.write(content[:half])
        file.flush()
        reached(FaultPoint.MID_JOURNAL)
        file.write(content[half:])
        file.flush()
        os.fsync(file.fileno())
    partial.rename(root / _JOURNAL)
    sync_folder(root / WORK_FOLDER)
    reached(FaultPoint.AFTER_JOURNAL)


def read_journal(root: Path) -> list[Rename] | None:
    """The journal of the dataset ``root``; ``None`` where there is none, or it is not whole.

    Raises:
        OutputError: it leads out of the dataset.
        OSError: it can't be read.
    """
    try:
        value = json.loads((root / _JOURNAL).read_bytes())
        body = value["renames"]
        if value["sha256"] != digest_json(body):
            return None
        renames = [Rename(**rename) for rename in body]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        return None
    for rename in renames:
        path = PurePosixPath(rename.path)
        if path.is_absolute() or ".." in path.parts:
            raise OutputError(f"{root / _JOURNAL} names {rename.path!r}, which lies outside of the dataset")
        check_inside(root, rename.path)
    return renames


def check_inside(root: Path, relative: str) -> None:
    """See that a file of the dataset lies in its folder and on its file system, so that it can be replaced.

    Raises:
        OutputError: it does not.
        OSError: nothing can be written to its folder.
    """
    folder = (root / relative).parent
    if not folder.resolve().is_relative_to(root.resolve()) or folder.stat().st_dev != root.stat().st_dev:
        raise OutputError(
            f"{root / relative} can't be changed in place: {folder} leads out of the dataset's folder or "
            "file system; name a new folder as output instead"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{folder} can't be written")


def check_untouched(root: Path, renames: Sequence[Rename]) -> None:
    """See that the files are still those that the new ones were made from.

    Raises:
        OutputError: one is not.
        OSError: one can't be read.
    """
    for rename in renames:
        if _sha256(root / rename.path) != rename.old:
            raise OutputError(
                f"{root / rename.path} was changed by somebody else while its new content was made; nothing "
                "was overwritten, run again"
            )


def missing_renames(root: Path, renames: Sequence[Rename]) -> list[Rename]:
    """Those of the journal that are still to be done, in order; nothing is changed.

    Raises:
        OutputError: a file is neither what it was nor what it shall become.
        OSError: one can't be read.
    """
    missing = []
    for rename in renames:
        found = _sha256(root / rename.path)
        if found == rename.new:
            continue
        staged = _sha256(root / NEW_FOLDER / rename.path)
        if found != rename.old or staged != rename.new:
            what = "was changed by somebody else" if found != rename.old else "has lost its new file"
            raise OutputError(
                f"{root / rename.path} {what} while it was being replaced (SHA-256 {found}, expected "
                f"{rename.old} or {rename.new}); nothing was overwritten. Put it back as it was, or give the "
                f"new files up by removing {root / WORK_FOLDER}; then run again"
            )
        missing.append(rename)
    return missing


def roll_forward(root: Path, renames: Sequence[Rename]) -> None:
    """Do what the journal says, as far as it is not done, durably.

    Raises:
        OutputError, OSError: see ``missing_renames``; the journal stays.
    """
    for rename in missing_renames(root, renames):
        reached(FaultPoint.BEFORE_FILE_RENAME)
        (root / NEW_FOLDER / rename.path).rename(root / rename.path)
    for folder in sorted({(root / rename.path).parent for rename in renames}):
        sync_folder(folder)
    reached(FaultPoint.AFTER_FILE_RENAMES)


def discard(root: Path) -> None:
    """Remove the journal, then the new files; a dataset that has none stays as it is.

    Raises:
        OSError: the journal can't be removed.
    """
    if (root / _JOURNAL).exists():
        (root / _JOURNAL).unlink()
        sync_folder(root / WORK_FOLDER)
    (root / _UNFINISHED).unlink(missing_ok=True)
    shutil.rmtree(root / NEW_FOLDER, ignore_errors=True)


def has_journal(root: Path) -> bool:
    """Whether a merge in place is at the point, or was killed there, where files take their places."""
    return (root / _JOURNAL).exists()


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
