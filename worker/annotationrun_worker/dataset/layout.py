"""The files of a LeRobot v3.0 dataset: where they lie, and how they are fetched when they are needed.

Where the files of a LeRobot v3.0 dataset lie, and whether they can be read.

Paths come from the templates of ``meta/info.json``, which is somebody else's file: a template may use its
known fields and nothing else, and must stay inside the dataset's folder. Symbolic links are followed, as the
Hub's cache is made of them, but not out of the dataset: what they led to would be published with it.

The files of a dataset, which may lie elsewhere until they are needed.
"""

import os
import re
import stat
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import DatasetError

OUR_FOLDER = ".annotationrun"
"""In a dataset that is annotated in place: what a change needs until it is made."""
MERGE_JOURNAL = f"{OUR_FOLDER}/journal.json"
"""There while the files of a change take their places."""
INFO_PATH = PurePosixPath("meta/info.json")
EPISODES_FOLDER = PurePosixPath("meta/episodes")

DATA_TEMPLATE = "data_path"
VIDEO_TEMPLATE = "video_path"
TEMPLATE_FIELDS: Mapping[str, frozenset[str]] = {
    DATA_TEMPLATE: frozenset({"chunk_index", "file_index"}),
    VIDEO_TEMPLATE: frozenset({"video_key", "chunk_index", "file_index"}),
}
TEMPLATE_CHARACTERS = 1024
"""LeRobot's own have some sixty."""
NAME_BYTES = 255
"""Of a file or folder, on every file system of Linux."""
PATH_CHARACTERS = 2048
_NUMBER_FORMAT = re.compile("0?[1-9]?d?")
"""As ``03d``; a width of several digits would make a name of gigabytes."""


def check_template(key: str, template: object) -> str:
    """Return the path template ``key`` of ``info.json`` if it is safe to fill.

    Raises:
        DatasetError: not text, not a format string, unknown fields, a field with more than the digits of a
            number, or it leaves the dataset's folder.
    """
    where = f"meta/info.json: {key!r} is {repr(template)[:TEMPLATE_CHARACTERS]}"
    if not isinstance(template, str) or not 0 < len(template) <= TEMPLATE_CHARACTERS:
        raise DatasetError(
            f"{where}; expected a path template with the fields {sorted(TEMPLATE_FIELDS[key])}"
        )
    allowed = TEMPLATE_FIELDS[key]
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{where}, not a path template: {error}") from error
    fields = {name or "" for _, name, _, _ in parts}
    if not fields <= allowed:
        raise DatasetError(
            f"{where} with the fields {sorted(fields - allowed)}; only {sorted(allowed)} can be filled"
        )
    for _, name, form, conversion in parts:
        if conversion or not (not form if name == "video_key" else _NUMBER_FORMAT.fullmatch(form or "")):
            raise DatasetError(
                f"{where}: the field {name!r} is formatted with {form or conversion!r}; expected at most a "
                "number's digits, as in {chunk_index:03d}, and none for the camera's name"
            )
    sample: dict[str, object] = {"chunk_index": 0, "file_index": 0, "video_key": "camera"}
    _check_inside(template.format(**sample), f"meta/info.json: {key!r}")
    return template


def _check_inside(relative: str, what: str) -> None:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise DatasetError(f"{what} leads to {relative!r}, outside of the dataset's folder; refused")
    try:
        longest = max(map(len, map(os.fsencode, path.parts)), default=0)
    except UnicodeEncodeError as error:
        raise DatasetError(f"{what} leads to {relative!r}, which can't be the name of a file") from error
    if longest > NAME_BYTES or len(relative) > PATH_CHARACTERS:
        raise DatasetError(f"{what} leads to {relative[:100]!r}..., a longer name than a file can have")


def data_file(root: Path, info: Mapping[str, Any], chunk_index: int, file_index: int) -> Path:
    """Path of a data file (parquet), below ``root``."""
    template = check_template(DATA_TEMPLATE, info.get(DATA_TEMPLATE))
    return root / template.format(chunk_index=chunk_index, file_index=file_index)


def video_file(
    root: Path, info: Mapping[str, Any], camera: CameraKey, chunk_index: int, file_index: int
) -> Path:
    """Path of a video file (mp4), below ``root``.

    Raises:
        DatasetError: the camera's name leads out of the dataset's folder.
    """
    template = check_template(VIDEO_TEMPLATE, info.get(VIDEO_TEMPLATE))
    relative = template.format(video_key=camera, chunk_index=chunk_index, file_index=file_index)
    _check_inside(relative, f"the video path of camera {camera!r}")
    return root / relative


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
"""How a file begins that git-lfs did not fetch.

https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""


def is_data_file(relative: str) -> bool:
    """Whether the file of a dataset holds rows of episodes."""
    return relative.startswith("data/") and relative.endswith(".parquet")


def data_files(root: Path) -> list[Path]:
    """The data files of the dataset at ``root``, sorted, below ``data/``; LeRobot loads all of them."""
    return sorted((root / "data").glob("**/*.parquet"))


def check_entries(root: Path) -> None:
    """See that a dataset in a folder is made of files and folders of its own, before any of it is opened.

    Hidden folders at the top (``.git``, ``.cache``) are no part of it, but for the one of our own.

    Raises:
        DatasetError: a link leads out of the folder, nowhere, or to a folder that it lies in; something is
            neither file nor folder; or a folder can't be read.
    """
    if not root.is_dir():
        return  # whoever reads it says so
    within = own_folders(root)
    for folder, folders, files in os.walk(root, onerror=_raise):
        if folder == str(root):
            folders[:] = [name for name in folders if not name.startswith(".") or name == OUR_FOLDER]
        for name in (*folders, *files):
            check_entry(Path(folder, name), within)


def own_folders(root: Path) -> tuple[Path, ...]:
    """Where files of a dataset may lie: below ``root``, or among the blobs if that is in the Hub's own cache.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    real = root.resolve()
    return (real, real.parents[1] / "blobs") if real.parent.name == "snapshots" else (real,)


def check_entry(path: Path, within: Iterable[Path]) -> None:
    """See that ``path`` is a file or folder that lies in one of the folders ``within``, links followed.

    Raises:
        DatasetError: it does not, it is something else, a link in a circle, or has line ends in its name.
    """
    if len(path.name.splitlines()) > 1 or any(ord(char) < ord(" ") for char in path.name):
        raise DatasetError(f"{str(path)!r} has line ends or control characters in its name; rename it")
    try:
        real = path.resolve(strict=True) if path.is_symlink() else path
        mode = real.lstat().st_mode
    except (OSError, RuntimeError) as error:  # a circle of links is the latter
        raise DatasetError(
            f"{str(path)!r} can't be read or is a link that leads nowhere; complete the download, or "
            "remove it"
        ) from error
    if path.is_symlink() and not any(real.is_relative_to(folder) for folder in within):
        raise DatasetError(
            f"{str(path)!r} is a link out of the dataset, to {str(real)!r}, which would be read and "
            "published as part of it; put the file or folder itself there, bind-mount it, or remove the link"
        )
    if path.is_symlink() and path.parent.resolve().is_relative_to(real):
        raise DatasetError(f"{str(path)!r} links to a folder that it lies in itself; remove the link")
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DatasetError(
            f"{str(path)!r} is neither a file nor a folder (a pipe, a socket, a device); remove it"
        )


def _raise(error: OSError) -> None:
    raise DatasetError(f"the folder {error.filename} can't be read: {error}; check permissions") from error


def check_readable(path: Path, what: str) -> None:
    """Open ``path`` once, so that a missing or forbidden file is named as such, with what it was for.

    Raises:
        DatasetError: the file is missing, not a file, empty, a pointer of Git LFS, or this user may not read
            it.
    """
    try:
        with path.open("rb") as file:
            first = file.read(len(LFS_POINTER))
    except FileNotFoundError as error:
        raise DatasetError(f"{what}: the file {str(path)!r} is missing; is the download complete?") from error
    except PermissionError as error:
        raise DatasetError(
            f"{what}: this user may not read {str(path)!r}{_mode_of(path)}; LeRobot writes mp4 files that "
            "hold several episodes with mode 0600, readable by their owner alone: chmod a+r it"
        ) from error
    except OSError as error:
        raise DatasetError(f"{what}: can't read {str(path)!r}: {error}") from error
    if not first:
        raise DatasetError(f"{what}: the file {str(path)!r} is empty (0 bytes); download the dataset again")
    if first == LFS_POINTER:
        raise DatasetError(
            f"{what}: the file {str(path)!r} is a pointer of Git LFS, not the file itself; fetch the files "
            "with 'git lfs pull' in the clone, or download the dataset with 'hf download'"
        )


def _mode_of(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f" (mode {status.st_mode & 0o7777:04o}, owner uid {status.st_uid})"


def has_journal(root: Path) -> bool:
    """Whether a merge in place is at the point, or was killed there, where files take their places."""
    return (root / MERGE_JOURNAL).exists()


class DatasetFiles(Protocol):
    """Files below ``root`` by their paths in the dataset; safe for any number of threads."""

    @property
    def root(self) -> Path:
        """The dataset's folder on this machine, absolute; the metadata is there."""

    @property
    def commit(self) -> str:
        """SHA of the commit that they are of; empty for a folder."""

    def data_files(self) -> Sequence[Path]:
        """The parquet files that hold rows, sorted; LeRobot loads all of them."""

    def using(self, path: Path) -> AbstractContextManager[None]:
        """Have the file ``path`` there within the context.

        Raises:
            DatasetError: the dataset has no such file.
            HubAccessError, HubUnavailableError: it can't be fetched.
            StorageError: there is no room for it.
        """

    def sha256_of(self, path: Path) -> str | None:
        """What is known of its content without reading it; ``None``: nothing."""

    def version_of(self, path: Path) -> str:
        """What stands for the content of a file as long as nobody changes it; nothing is read for it.

        Raises:
            DatasetError: the dataset has no such file.
        """

    def give_up(self) -> None:
        """Fetch nothing more; threads that fetch or wait for a file end soon, with an error."""


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """A dataset in a folder: all is there."""

    root: Path
    commit: str = ""

    def data_files(self) -> Sequence[Path]:
        """See ``DatasetFiles.data_files``."""
        return data_files(self.root)

    @contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """See ``DatasetFiles.using``."""
        yield

    def sha256_of(self, path: Path) -> str | None:
        """See ``DatasetFiles.sha256_of``."""
        return None

    def version_of(self, path: Path) -> str:
        """See ``DatasetFiles.version_of``: its place in the dataset, its size and time of change."""
        try:
            found = path.stat()
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error}; check permissions") from error
        return f"{path.relative_to(self.root).as_posix()} {found.st_size} {found.st_mtime_ns}"

    def give_up(self) -> None:
        """See ``DatasetFiles.give_up``."""
