"""What a folder store does to the disk, one function for each kind of operation.

Nothing else writes there, so that a test can record them and play a power cut after each.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_CAN_NOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})
"""What file systems say that keep no folders to sync."""


def write_new(path: Path, content: bytes, *, is_synced: bool) -> None:
    """Write ``content`` into the new file ``path``; synced, a power cut leaves the whole of it.

    Raises:
        FileExistsError: there is one.
        OSError: it can't be written whole; nothing is left of it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write(descriptor, content)
            if is_synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def link(path: Path, name: Path) -> None:
    """Give the file ``path`` the further ``name``, which nobody has: FileExistsError."""
    os.link(path, name)


def rename(path: Path, name: Path) -> None:
    """Give the file ``path`` the ``name``, in place of the file that has it."""
    path.replace(name)


def unlink(path: Path) -> None:
    """Take away the name ``path`` of a file."""
    path.unlink()


def make_folder(path: Path) -> None:
    """Make the folder ``path``: FileExistsError, FileNotFoundError."""
    path.mkdir()


def remove_folder(path: Path) -> None:
    """Remove the empty folder ``path``."""
    path.rmdir()


def sync_folder(path: Path) -> None:
    """Return when a power cut leaves the names in the folder ``path`` as they are now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CAN_NOT_SYNC:
            raise
    finally:
        os.close(descriptor)
