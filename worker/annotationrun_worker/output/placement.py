"""Build a folder beside its place, then rename it there: whoever looks sees the old one or the new one.

While a merge runs, or after one was killed, there lie beside ``name``: ``.name.lock``, ``.name.partial-*``
(being built), for the moment between two renames ``.name.replaced-*`` (the old one, whole), and then
``.name.deleted-*`` (the old one, perhaps in part).
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Literal

from annotationrun_worker.fault_points import FaultPoint, reached

_COPY_BYTES: Final = 1024 * 1024
"""Read at once when files are copied."""

Placed = Literal["linked", "cloned", "copied"]

_FICLONE: Final = 0x40049409
"""Linux ioctl (linux/fs.h): share the blocks of another file, copied on write (btrfs, xfs)."""


def output_lock(output: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the place of ``output`` alone: see ``file_lock``; the file lies beside the output."""
    return file_lock(output.with_name(f".{output.name}.lock"))


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` alone; waits until whoever holds it has done.

    The file goes with the lock. On a file system without locks nothing is held.

    Raises:
        OSError: the file can't be made.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: who waits sees that the file is another one
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # whoever held it has just removed the folder too
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise
                return descriptor
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def probe_writable(folder: Path) -> None:
    """See that files can be made in ``folder``, or in the nearest folder above it that exists.

    A folder is made there and removed: permissions alone don't tell of a read-only or full disk.

    Raises:
        OSError: they can't.
    """
    probe = nearest_folder(folder) / f".annotationrun-{secrets.token_hex(4)}"
    probe.mkdir()
    probe.rmdir()


@contextlib.contextmanager
def partial_folder(output: Path) -> Iterator[Path]:
    """Make an empty folder beside ``output``; what is left of it at the end goes.

    A lock on the folder tells a merge that lives from one that was killed; see ``recover``.

    Raises:
        OSError: it can't be made.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(output, "partial")
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: leftovers then stay
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield partial
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, output: Path) -> None:
    """Rename ``partial`` to ``output``, durably; a folder that is there goes, if the rename succeeds.

    Raises:
        OSError: nothing was changed.
    """
    sync_folders(partial)
    replaced = _beside(output, "replaced")
    if output.exists():
        reached(FaultPoint.BEFORE_OUTPUT_ASIDE)
        output.rename(replaced)
    reached(FaultPoint.BEFORE_OUTPUT_RENAME)
    try:
        partial.rename(output)
    except OSError:
        if replaced.exists():
            replaced.rename(output)
        raise
    sync_folder(output.parent)
    reached(FaultPoint.AFTER_OUTPUT_RENAME)
    _delete_replaced(output)


def recover(output: Path) -> None:
    """Put right what a killed merge left.

    What it was building goes. Between its two renames the old folder comes back, after them it goes. For
    whoever holds the ``output_lock``.

    Raises:
        OSError: a folder can't be renamed.
    """
    for leftover in _all_beside(output, "partial"):
        _remove_if_dead(leftover)
    old = _all_beside(output, "replaced")
    if old and not output.exists():
        old[0].rename(output)
    if output.exists() and any(output.iterdir()):
        _delete_replaced(output)


def _delete_replaced(output: Path) -> None:
    for old in _all_beside(output, "replaced"):
        # a name of its own first: what is deleted in part must never come back
        old.rename(_beside(output, "deleted"))
    for deleted in _all_beside(output, "deleted"):
        shutil.rmtree(deleted, ignore_errors=True)


def link_file(source: Path, target: Path) -> Placed:
    """Bring a large file over at the least cost: a hard link, else shared blocks, else a copy.

    Never a symbolic link: the output has to outlive its source.

    Raises:
        OSError: none of the three worked.
    """
    # the Hub's cache holds links to its blobs; a hard link of such a link would be one to a relative path
    real = source.resolve(strict=True)
    try:
        os.link(real, target)
    except OSError as error:
        # another file system; not the owner (fs.protected_hardlinks); too many links; no links at all
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP}:
            raise
    else:
        return "linked"
    with real.open("rb") as from_file, target.open("xb") as to_file:
        try:
            fcntl.ioctl(to_file.fileno(), _FICLONE, from_file.fileno())
        except OSError:
            _copy(from_file, to_file)
            return "copied"
        _keep_time(from_file, to_file)
        os.fsync(to_file.fileno())
    return "cloned"


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes to a new file, durably.

    Raises:
        OSError: ``source`` can't be read, or ``target`` is there already or can't be written.
    """
    with source.open("rb") as from_file, target.open("xb") as to_file:
        _copy(from_file, to_file)


def write_file(target: Path, content: bytes) -> None:
    """Write a new file, durably.

    Raises:
        OSError: it is there already, or can't be written.
    """
    with target.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _copy(from_file: BinaryIO, to_file: BinaryIO) -> None:
    shutil.copyfileobj(from_file, to_file, length=_COPY_BYTES)
    to_file.flush()
    _keep_time(from_file, to_file)
    os.fsync(to_file.fileno())


def _keep_time(from_file: BinaryIO, to_file: BinaryIO) -> None:
    """Give a copy the original's time of change: with its size, it tells the next merge that they are one."""
    found = os.fstat(from_file.fileno())
    os.utime(to_file.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def _beside(output: Path, what: str) -> Path:
    return output.with_name(f".{output.name}.{what}-{secrets.token_hex(4)}")


def _all_beside(output: Path, what: str) -> list[Path]:
    return sorted(output.parent.glob(f".{_glob_safe(output.name)}.{what}-*"))


def _glob_safe(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _remove_if_dead(leftover: Path) -> None:
    try:
        descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(leftover, ignore_errors=True)
    finally:
        os.close(descriptor)


def sync_folders(root: Path) -> None:
    """Make the names of everything below ``root`` durable; the content of files is not touched.

    Raises:
        OSError: a folder can't be read.
    """
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable, as they are now.

    Raises:
        OSError: it can't be read.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
