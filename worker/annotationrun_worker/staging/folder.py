"""The writing side of a staging store in a folder: an object is there whole, or not at all.

An object is written beside under another name, synced, then linked or renamed, and its folder is synced: what
counts as written stays, wherever the power is cut. The other name ends with ``#`` and digits, which listings
leave out.
"""

import fcntl
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from annotationrun_worker.staging import disk

_NAMES: Final = 10**15
_TRIES: Final = 100
"""At a folder that others remove, as it is empty, each time it is made."""


@dataclass(frozen=True, slots=True)
class SyncedFolder:
    """Objects by relative path below ``root``; each method raises OSError where the disk refuses."""

    root: Path
    _known: set[Path] = field(default_factory=set)
    """Folders below ``root`` whose own names are synced."""

    def make(self) -> None:
        """Make ``root`` and what is missing above it."""
        missing = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            disk.sync_folder(folder.parent)

    def create(self, path: str, content: bytes) -> bool:
        """Create the object at ``path``, synced; False where there is one, whatever it holds."""
        target = self.root / path
        written = self._write_beside(target, content, is_synced=True)
        try:
            disk.link(written, target)
            is_new = True
        except FileExistsError:
            is_new = False
        finally:
            disk.unlink(written)
        _sync_names(target.parent)
        return is_new

    def put(self, path: str, content: bytes, *, is_synced: bool = True) -> None:
        """Write the object at ``path`` over what is there; not synced, a power cut may leave it empty."""
        target = self.root / path
        written = self._write_beside(target, content, is_synced=is_synced)
        try:
            disk.rename(written, target)
        except BaseException:
            disk.unlink(written)
            raise
        if is_synced:
            _sync_names(target.parent)

    def replace(self, path: str, found: bytes, content: bytes) -> bool:
        """Write the object at ``path``, synced, if it still holds what was ``found``, or is gone.

        Of several that try at once one does: it locks the file that goes, where the file system has locks.
        """
        target = self.root / path
        try:
            descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return self.create(path, content)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not _is_at(descriptor, target) or target.read_bytes() != found:
                return False
            self.put(path, content)
            return True
        finally:
            os.close(descriptor)

    def delete(self, path: str) -> None:
        """Delete the object at ``path``, and the folders that are empty then; FileNotFoundError."""
        disk.unlink(self.root / path)
        for folder in Path(path).parents[:-1]:
            try:
                disk.remove_folder(self.root / folder)
            except OSError:  # another object is in it
                return
            self._known.discard(self.root / folder)

    def _write_beside(self, target: Path, content: bytes, *, is_synced: bool) -> Path:
        """``content`` in a file of its own in the folder of ``target``."""
        for _ in range(_TRIES):
            written = target.with_name(f"{target.name}#{secrets.randbelow(_NAMES)}")
            try:
                self._make(target.parent)
                disk.write_new(written, content, is_synced=is_synced)
            except FileNotFoundError:  # whoever deleted the last object in the folder removed it
                self._forget(target.parent)
            else:
                return written
        raise FileNotFoundError(f"the folder {str(target.parent)!r} goes as soon as it is made")

    def _make(self, folder: Path) -> None:
        """Make ``folder`` and those above it that are missing; their names are synced."""
        if folder == self.root or folder in self._known:
            return
        self._make(folder.parent)
        with suppress(FileExistsError):
            disk.make_folder(folder)
        disk.sync_folder(folder.parent)
        self._known.add(folder)

    def _forget(self, folder: Path) -> None:
        self._known.difference_update({folder, *folder.parents})


def _sync_names(folder: Path) -> None:
    """Sync ``folder``, unless another worker has deleted what was in it just now, and it with that."""
    with suppress(FileNotFoundError):
        disk.sync_folder(folder)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether ``path`` still names the file that is open as ``descriptor``."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
