"""Where the files of a LeRobot v3.0 dataset lie, and whether they can be read.

Paths come from the templates of ``meta/info.json``, which is somebody else's file: a template may use its
known fields and nothing else, and must stay inside the dataset's folder. Symbolic links are followed, as the
Hub's cache is made of them.
"""

import string
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.errors import DatasetError

INFO_PATH = PurePosixPath("meta/info.json")
EPISODES_FOLDER = PurePosixPath("meta/episodes")

DATA_TEMPLATE = "data_path"
VIDEO_TEMPLATE = "video_path"
TEMPLATE_FIELDS: Mapping[str, frozenset[str]] = {
    DATA_TEMPLATE: frozenset({"chunk_index", "file_index"}),
    VIDEO_TEMPLATE: frozenset({"video_key", "chunk_index", "file_index"}),
}


def check_template(key: str, template: object) -> str:
    """Return the path template ``key`` of ``info.json`` if it is safe to fill.

    Raises:
        DatasetError: not text, not a format string, unknown fields, or it leaves the dataset's folder.
    """
    where = f"meta/info.json: {key!r} is {template!r}"
    if not isinstance(template, str) or not template:
        raise DatasetError(
            f"{where}; expected a path template with the fields {sorted(TEMPLATE_FIELDS[key])}"
        )
    allowed = TEMPLATE_FIELDS[key]
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        sample: dict[str, object] = {"chunk_index": 0, "file_index": 0, "video_key": "camera"}
        filled = template.format(**sample) if fields <= allowed else ""
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{where}, not a path template: {error}") from error
    if not fields <= allowed:
        raise DatasetError(
            f"{where} with the fields {sorted(fields - allowed)}; only {sorted(allowed)} can be filled"
        )
    _check_inside(filled, f"meta/info.json: {key!r}")
    return template


def _check_inside(relative: str, what: str) -> None:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise DatasetError(f"{what} leads to {relative!r}, outside of the dataset's folder; refused")


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
