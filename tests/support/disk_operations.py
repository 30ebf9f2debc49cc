"""Records what a folder store does to the disk, and plays what a power cut leaves of it.

    python -m tests.support.disk_operations LOG ARGUMENTS

runs `annotationrun ARGUMENTS`, and writes each operation to LOG as soon as it is done, and each fault point
as soon as it is reached.
"""

import json
import random
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, Final
from unittest.mock import patch

from annotationrun_worker import fault_points
from annotationrun_worker.__main__ import main
from annotationrun_worker.fault_points import FaultPoint
from annotationrun_worker.staging import disk

NAMES: Final = ("write_new", "link", "rename", "unlink", "make_folder", "remove_folder", "sync_folder")
REACHED: Final = "reached"
"""Name of what is no operation, but the news that a fault point is reached: its path."""


@dataclass(frozen=True)
class Operation:
    """One that succeeded."""

    name: str
    paths: tuple[str, ...]
    content: bytes = b""
    """Of a new file."""
    is_synced: bool = False
    """Whether a new file was synced."""

    def to_json(self) -> str:
        content = b64encode(self.content).decode()
        return json.dumps([self.name, self.paths, content, self.is_synced])

    @classmethod
    def from_json(cls, line: str) -> "Operation":
        name, paths, content, is_synced = json.loads(line)
        return cls(name, tuple(paths), b64decode(content), is_synced)


@contextmanager
def recorded(take: Callable[[Operation], object] | None = None) -> Iterator[list[Operation]]:
    """Within, what is done by `disk` is noted in order, one operation at a time, and given to `take`."""
    operations: list[Operation] = []
    lock = Lock()

    def note(operation: Operation) -> None:
        operations.append(operation)
        if take is not None:
            take(operation)

    def recording(name: str) -> Callable[..., None]:
        original = getattr(disk, name)

        @wraps(original)
        def record(*arguments: Any, **options: Any) -> None:
            with lock:
                original(*arguments, **options)
                paths = tuple(str(one) for one in arguments if isinstance(one, Path))
                content = b"".join(one for one in arguments if isinstance(one, bytes))
                note(Operation(name, paths, content, options.get("is_synced", False)))

        return record

    def listen(point: FaultPoint) -> None:
        with lock:
            note(Operation(REACHED, (point.name,)))

    with (
        patch.multiple(disk, **{name: recording(name) for name in NAMES}),
        patch.object(fault_points, "listener", listen),
    ):
        yield operations


@dataclass
class _File:
    content: bytes
    is_synced: bool


@dataclass
class _Folder:
    now: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)
    """Its names when it was synced last."""
    since: list[dict[str, "_File | _Folder | None"]] = field(default_factory=list)
    """Names that each operation since then gave or, with `None`, took."""

    def change(self, **names: "_File | _Folder | None") -> None:
        self.since.append(names)
        _apply(self.now, names)

    def sync(self) -> None:
        self.synced = dict(self.now)
        self.since.clear()


def _apply(names: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """The store's folder, as a file system has it that keeps the order of names in each folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = _Folder()

    def do(self, operation: Operation) -> None:
        """Go on by one operation."""
        if operation.name == REACHED:
            return
        paths = [Path(path) for path in operation.paths]
        if not all(path.is_relative_to(self._root) for path in paths):
            return  # the folder that the store is in: the store's own is taken as there
        places = [(self._folder(path.parent), path.name) for path in paths if path != self._root]
        match operation.name:
            case "write_new":
                ((folder, name),) = places
                folder.change(**{name: _File(operation.content, operation.is_synced)})
            case "link":
                (old, old_name), (folder, name) = places
                folder.change(**{name: old.now[old_name]})
            case "rename":
                (old, old_name), (folder, name) = places
                assert old is folder
                folder.change(**{name: old.now[old_name], old_name: None})
            case "make_folder":
                ((folder, name),) = places
                folder.change(**{name: _Folder()})
            case "unlink" | "remove_folder":
                ((folder, name),) = places
                folder.change(**{name: None})
            case "sync_folder":
                self._folder(paths[0]).sync()
            case _:
                raise ValueError(operation.name)

    def _folder(self, path: Path) -> _Folder:
        folder = self._top
        for name in path.relative_to(self._root).parts:
            found = folder.now[name]
            assert isinstance(found, _Folder)
            folder = found
        return folder

    def synced(self) -> dict[str, bytes]:
        """Contents by path after a power cut now that takes all that is not synced; such files are empty."""
        return dict(_left(self._top, "", lambda folder: folder.synced, lambda file: b""))

    def torn(self, seed: int) -> dict[str, bytes]:
        """As ``synced``, but what is not synced may have come to the disk or not, or in part."""
        draw = random.Random(seed)

        def names(folder: _Folder) -> dict[str, _File | _Folder]:
            found = dict(folder.synced)
            for changes in folder.since[: draw.randint(0, len(folder.since))]:
                _apply(found, changes)
            return found

        def content(file: _File) -> bytes:
            size = len(file.content)
            return draw.choice([b"", bytes(size), file.content[: draw.randint(0, size)], file.content])

        return dict(_left(self._top, "", names, content))


def _left(
    folder: _Folder,
    path: str,
    names: Callable[[_Folder], dict[str, "_File | _Folder"]],
    unsynced: Callable[[_File], bytes],
) -> Iterable[tuple[str, bytes]]:
    for name, node in sorted(names(folder).items()):
        if isinstance(node, _Folder):
            yield from _left(node, f"{path}{name}/", names, unsynced)
        else:
            yield f"{path}{name}", node.content if node.is_synced else unsynced(node)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """The files of a disk, in `folder`."""
    folder.mkdir()
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


if __name__ == "__main__":
    log = Path(sys.argv.pop(1)).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115  main ends the process
    with recorded(lambda operation: log.write(operation.to_json() + "\n")):
        main()
