"""What a folder holds, as plain values to compare."""

import hashlib
from pathlib import Path


def tree(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file by its path in ``folder``, hidden ones too; none if it is missing."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written_at(folder: Path) -> dict[str, tuple[int, int]]:
    """(inode, time of the last write in nanoseconds) of every file and folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }
