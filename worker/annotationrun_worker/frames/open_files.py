"""The files that a child process used last, kept open."""

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from annotationrun_worker.frames.child_server import RefusedError

OPEN_FILES = 8
"""So many files stay open, each with a decoder: some cameras of some neighbouring files."""


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Free what it holds."""


File = TypeVar("File", bound=Closable)


class OpenFiles(Generic[File]):
    """The files used last; a file that was replaced on disk is opened again."""

    def __init__(self, open_file: Callable[[str], File]) -> None:
        self._open_file = open_file
        self._files: OrderedDict[tuple[str, int, int, int], File] = OrderedDict()

    def get(self, path: str) -> File:
        """Return the open file at ``path``.

        Raises:
            RefusedError: it is missing, unreadable or not what ``open_file`` expects.
        """
        try:
            status = os.stat(path)  # noqa: PTH116  (the path came as text and goes on as text)
        except OSError as error:
            raise RefusedError("open", f"can't be read: {error.strerror}") from error
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        file = self._files.pop(key, None)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = self._open_file(path)
        self._files[key] = file
        return file
