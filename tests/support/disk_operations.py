"""Records what a folder store does to the disk, and makes the disks that a power cut may leave of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, Final
from unittest.mock import patch

from annotationrun_worker.staging import disk

NAMES: Final = ("write_new", "link", "rename", "unlink", "make_folder", "remove_folder", "sync_folder")


@dataclass(frozen=True)
class Operation:
    """One that succeeded."""

    name: str
    paths: tuple[str, ...]
    content: bytes = b""
    """Of a new file."""
    is_synced: bool = False
    """Whether a new file was synced."""


@contextmanager
def recorded(take: Callable[[Operation], None] | None = None) -> Iterator[list[Operation]]:
    """Within, what is done by `disk` is noted in order, and given to `take`."""
    operations: list[Operation] = []
    lock = Lock()

    def recording(name: str) -> Callable[..., None]:
        original = getattr(disk, name)

        @wraps(original)
        def record(*arguments: Any, **options: Any) -> None:
            with lock:
                original(*arguments, **options)
                paths = tuple(str(one) for one in arguments if isinstance(one, Path))
                content = b"".join(one for one in arguments if isinstance(one, bytes))
                operations.append(Operation(name, paths, content, options.get("is_synced", False)))
                if take is not None:
                    take(operations[-1])

        return record

    with patch.multiple(disk, **{name: recording(name) for name in NAMES}):
        yield operations
