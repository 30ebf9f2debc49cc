"""``meta/annotationrun.json``: what a folder was merged from, and which files it had then.

It holds no time and no name of a run, so that equal input gives equal bytes. LeRobot ignores the file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import OutputError
from annotationrun_worker.merge.source_files import RECORD_NAME, source_files
from annotationrun_worker.rows import ModuleName
from annotationrun_worker.staging.digests import Digest, digest_json

FORMAT_VERSION: Final = 1
"""Of the merged dataset: another number makes other bytes, so it is part of the merge digest."""

HASHED_FOLDERS: Final = frozenset({"data", "meta"})
"""Read in full for the identity of a source; of the rest (videos) the sizes stand for the content."""


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """The content of ``meta/annotationrun.json``."""

    merge_digest: str
    settings_digests: Mapping[str, str]
    """By module."""
    file_bytes: Mapping[str, int]
    """Size of each other file of the folder, by path relative to it."""

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        value = {
            "formatVersion": FORMAT_VERSION,
            "mergeDigest": self.merge_digest,
            "settings": dict(self.settings_digests),
            "files": dict(self.file_bytes),
        }
        return (json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_record(root: Path) -> MergeRecord | None:
    """Read the record of the folder ``root``; ``None`` if it has none, so is not made by a merge.

    Raises:
        OutputError: the record is not what a merge writes.
        OSError: it can't be read.
    """
    path = root / RECORD_NAME
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
        record = MergeRecord(value["mergeDigest"], value["settings"], value["files"])
        if record.to_bytes() != path.read_bytes():
            raise ValueError(f"format version {value['formatVersion']!r}, expected {FORMAT_VERSION}")
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path} is not the record of a merge by this version ({error!r}); move {root} away, or name "
            "another output"
        ) from error
    return record


def changed_file(root: Path, record: MergeRecord) -> str | None:
    """The first file of ``root`` that is missing, of another size, or not in its record; else ``None``."""
    present = {relative: path.stat().st_size for relative, path in source_files(root)}
    names = sorted(present.keys() | record.file_bytes.keys())
    return next((name for name in names if present.get(name) != record.file_bytes.get(name)), None)


def merge_digest(
    results: Mapping[int, Mapping[ModuleName, str]], source_identity: str, publishing: Mapping[str, str]
) -> Digest:
    """SHA-256 that stands for the content of a merged dataset.

    Args:
        results: the key of each result that goes in, by episode and module.
        source_identity: commit SHA of the source, or its ``folder_identity``.
        publishing: settings of the output that change its content.
    """
    return digest_json(
        {
            "formatVersion": FORMAT_VERSION,
            "results": {str(episode): dict(keys) for episode, keys in results.items()},
            "source": source_identity,
            "publishing": dict(publishing),
        }
    )


def folder_identity(source: Path) -> Digest:
    """SHA-256 that stands for a source folder: bytes of ``data/`` and ``meta/``, sizes of all other files.

    Raises:
        DatasetError: the folder holds something that is no file.
        OSError: a file can't be read.
    """
    identity: dict[str, str | int] = {}
    for relative, path in source_files(source):
        if Path(relative).parts[0] in HASHED_FOLDERS:
            with path.open("rb") as file:
                identity[relative] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            identity[relative] = path.stat().st_size
    return digest_json(identity)
