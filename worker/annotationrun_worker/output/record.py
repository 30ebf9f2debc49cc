"""The record of a merge, and the trees of files that it speaks of.

The files of a folder: those of a source that a merged dataset takes over, and all that an output holds.

``meta/annotationrun.json``: what a folder was merged from, what it lacks, and which files it had then.

It holds no time and no name of a run, so that equal input gives equal bytes. LeRobot ignores the file.

What a source holds: its files, and what stands for the content of each.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from annotationrun_worker.errors import DatasetError, OutputError
from annotationrun_worker.language.rows import ModuleName
from annotationrun_worker.staging.digests import Digest, digest_json

RECORD_NAME: Final = "meta/annotationrun.json"
"""Our own record in a merged dataset: made anew by each merge, see ``record``."""

LARGE_FOLDERS: Final = frozenset({"videos", "images"})
"""Large and never written again: linked, and told apart by size; everything else is copied and hashed."""

_OF_OTHER_ROWS: Final = ("meta/lerobot_annotations.json", "meta/annotations/ownership/")
"""What LeRobot's dataset visualizer and its runtime keep beside the rows, and says what those rows are."""


def speaks_of_other_rows(relative: str) -> bool:
    """Whether the file of a source says something of its language rows, which an output does not have."""
    return relative.startswith(_OF_OTHER_ROWS)


def source_files(root: Path) -> list[tuple[str, Path]]:
    """List all files below ``root`` as (path relative to it with slashes, path), sorted by the former.

    Symbolic links are followed, the Hub's cache is made of them. Hidden folders at the top (``.git``,
    ``.cache``) are no part of a dataset; our own record, and what speaks of other rows, is left out.

    Raises:
        DatasetError: something that is neither file nor folder, a broken link, or a link in a circle.
    """
    found: dict[str, Path] = {}
    above: dict[str, frozenset[str]] = {str(root): frozenset({os.path.realpath(root)})}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        if folder == str(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            path = Path(folder, name)
            real = os.path.realpath(path)
            if real in above[folder]:
                raise DatasetError(f"{path} links to a folder that it lies in; remove the link")
            above[str(path)] = above[folder] | {real}
        for name in files:
            path = Path(folder, name)
            if not path.is_file():
                raise DatasetError(
                    f"{path} is no file, or a link that leads nowhere; is the download complete?"
                )
            found[path.relative_to(root).as_posix()] = path
    found.pop(RECORD_NAME, None)
    return sorted(item for item in found.items() if not speaks_of_other_rows(item[0]))


def entries_of(root: Path) -> dict[str, Path]:
    """Everything below ``root`` that would be lost with it: by path relative to it, with slashes.

    Hidden files and folders too, links as links; of the folders only those that hold nothing. Our own record
    is left out.

    Raises:
        OSError: a folder can't be read.
    """
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(root, onerror=_raise_as_it_is):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        paths = [Path(folder, name) for name in (*files, *links)]
        if not folders and not files and folder != str(root):
            paths = [Path(folder)]
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    found.pop(RECORD_NAME, None)
    return found


def _raise_as_it_is(error: OSError) -> None:
    raise error


def _raise(error: OSError) -> None:
    raise DatasetError(f"the folder {error.filename} can't be read: {error}") from error


RECORD_BYTES_LIMIT: Final = 128 * 1024**2
"""That of a hundred thousand episodes has half of it."""
FORMAT_VERSION: Final = 5
"""Of the merged dataset: another number makes other bytes, so it is part of the merge digest."""

CAUSE_CHARACTERS: Final = 200
"""Kept of why a question has no usable answer: what the model said may be long."""

FileMark = str | int
"""Stands for the content of a file: its SHA-256 in hex digits, or its size in bytes (videos, images)."""


@dataclass(frozen=True, slots=True, order=True)
class Unanswered:
    """A question that got no usable answer: where the dataset lacks a label."""

    episode: int
    module: ModuleName
    frame: int
    camera: str
    """Empty: of no camera."""
    kind: str
    """Of the question, such as ``vqa_count``."""
    cause: str

    @classmethod
    def of(cls, episode: int, module: ModuleName, question: Mapping[str, Any]) -> Self:
        """What is told of an unanswered question in a staged result."""
        cause = " ".join(str(question["cause"]).split())[:CAUSE_CHARACTERS]
        return cls(
            episode, module, int(question["frame"]), question["camera"] or "", str(question["kind"]), cause
        )


@dataclass(frozen=True, slots=True, order=True)
class RecordedModel:
    """A model that rows came from."""

    id: str
    revision: str
    """As the manifest named it."""
    commit: str = ""
    """SHA-1 that the revision was; empty: it is not known."""


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """The content of ``meta/annotationrun.json``."""

    merge_digest: str
    settings_digests: Mapping[str, str]
    """By module."""
    files: Mapping[str, FileMark]
    """Each other file of the folder, by path relative to it."""
    failed_episodes: Sequence[int] = ()
    """Selected episodes without a result, in order: what the manifest let go."""
    results: Mapping[int, Mapping[ModuleName, str]] = field(default_factory=dict)
    """The key of each result that rows of it came from, by episode and module; of earlier merges too."""
    labelled_episodes: Mapping[ModuleName, int] = field(default_factory=dict)
    """How many episodes have rows of each module, whoever made them."""
    unanswered: Sequence[Unanswered] = ()
    """Of these results, in order."""
    models: Mapping[ModuleName, Sequence[RecordedModel]] = field(default_factory=dict)
    """The models that the rows of ``results`` came from, by module; of earlier merges too."""
    source_identity: str | None = None
    """Of a dataset that is changed in place: the ``SourceTree.identity`` that it had before, so that our own
    writing is no new source. ``None``: a merge made the folder, and may replace it."""

    @property
    def lacks(self) -> object:
        """What the dataset lacks; equal where that is the same."""
        return tuple(self.failed_episodes), tuple(self.unanswered)

    def to_bytes(self) -> bytes:
        """As it stands in the file."""
        value = {
            "formatVersion": FORMAT_VERSION,
            "mergeDigest": self.merge_digest,
            "settings": dict(self.settings_digests),
            "failedEpisodes": list(self.failed_episodes),
            "results": {str(episode): dict(keys) for episode, keys in self.results.items()},
            "labelledEpisodes": dict(self.labelled_episodes),
            "unanswered": [asdict(question) for question in self.unanswered],
            **({"models": _values_of(self.models)} if self.models else {}),  # earlier records have none
            "sourceIdentity": self.source_identity,
            "files": dict(self.files),
        }
        return (json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _values_of(models: Mapping[ModuleName, Sequence[RecordedModel]]) -> dict[str, list[dict[str, str]]]:
    return {module: [asdict(model) for model in found] for module, found in models.items()}


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
        content = _record_bytes(path)
        value = json.loads(content)
        if value["formatVersion"] != FORMAT_VERSION:
            raise ValueError(f"format version {value['formatVersion']!r}, expected {FORMAT_VERSION}")
        record = MergeRecord(
            value["mergeDigest"],
            value["settings"],
            value["files"],
            tuple(value["failedEpisodes"]),
            {int(episode): keys for episode, keys in value["results"].items()},
            value["labelledEpisodes"],
            tuple(Unanswered(**question) for question in value["unanswered"]),
            {
                module: tuple(RecordedModel(**model) for model in models)
                for module, models in value.get("models", {}).items()
            },
            value["sourceIdentity"],
        )
        if record.to_bytes() != content:
            raise ValueError("not the bytes that a merge writes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{path} is not the record of a merge by this version ({error!r}); move {root} away, or name "
            "another output"
        ) from error
    return record


def _record_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(RECORD_BYTES_LIMIT + 1)
    if len(content) > RECORD_BYTES_LIMIT:
        raise ValueError(f"more than {RECORD_BYTES_LIMIT} bytes")
    return content


def known_record(root: Path) -> MergeRecord | None:
    """The record of the dataset ``root``; ``None`` also if it is of another version of the format.

    Raises:
        OutputError: ``meta/annotationrun.json`` is not what a merge writes.
        DatasetError: it can't be read.
    """
    path = root / RECORD_NAME
    try:
        return None if _is_of_another_version(path) else read_record(root)
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from error


def _is_of_another_version(path: Path) -> bool:
    try:
        value = json.loads(_record_bytes(path))
    except (FileNotFoundError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("formatVersion", FORMAT_VERSION) != FORMAT_VERSION


def record_of_changed(root: Path, marks: Mapping[str, FileMark]) -> MergeRecord | None:
    """The record of a dataset that is changed in place, if it still says what is there.

    ``None`` where it does not: then the folder is a source like any other.

    Args:
        root: the dataset.
        marks: of its files, without this one.

    Raises:
        OutputError, DatasetError: see ``known_record``.
    """
    record = known_record(root)
    return record if record is not None and record.files == marks else None


def mark_files(root: Path) -> dict[str, FileMark]:
    """The marks of all files that a merge wrote to ``root``.

    Raises:
        OSError: one can't be read.
    """
    return {relative: mark_file(relative, path) for relative, path in sorted(entries_of(root).items())}


def changed_file(root: Path, record: MergeRecord) -> str | None:
    """The first file of ``root`` that is missing, changed, or not in its record; else ``None``.

    Hidden files and folders count: whatever is there would be lost with a folder that is replaced.

    Raises:
        OSError: one can't be read.
    """
    present = entries_of(root)
    others = sorted(present.keys() ^ record.files.keys())
    if others:
        return others[0]
    return next((name for name in sorted(present) if _differs(name, present[name], record)), None)


def _differs(relative: str, path: Path, record: MergeRecord) -> bool:
    if path.is_symlink() or not path.is_file():
        return True  # no merge writes links, empty folders or pipes
    return mark_file(relative, path) != record.files[relative]


def mark_file(relative: str, path: Path) -> FileMark:
    """What stands for the content of the file ``path``, which is ``relative`` in its dataset.

    Raises:
        OSError: it can't be read.
    """
    if relative.split("/", 1)[0] in LARGE_FOLDERS:
        return path.stat().st_size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def merge_digest(
    results: Mapping[int, Mapping[ModuleName, str]], source_identity: str, publishing: Mapping[str, str]
) -> Digest:
    """SHA-256 that stands for the content of a merged dataset.

    Args:
        results: the key of each result that goes in, by episode and module.
        source_identity: commit SHA of the source, or its ``SourceTree.identity``.
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


def unanswered_lines(questions: Iterable[Unanswered]) -> list[str]:
    """``episode 3, vqa: 4 questions; the first: the cause``: a line for each episode and module, in order."""
    found: dict[tuple[int, ModuleName], list[Unanswered]] = {}
    for question in questions:
        found.setdefault((question.episode, question.module), []).append(question)
    return [
        f"episode {episode}, {module}: {len(asked)} {'question' if len(asked) == 1 else 'questions'}; "
        f"the first: {asked[0].cause}"
        for (episode, module), asked in sorted(found.items())
    ]


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A dataset, file by file."""

    root: Path
    files: Sequence[tuple[str, Path]]
    """Path relative to the dataset, and where it lies (or will, when it is fetched), sorted by the former."""
    marks: Mapping[str, FileMark]
    """Of these files."""

    @property
    def record(self) -> MergeRecord | None:
        """Of a dataset that we changed and nobody else since; else ``None``.

        Raises:
            OutputError, DatasetError: see ``record_of_changed``.
        """
        return record_of_changed(self.root, self.marks)

    def identity(self, *, is_output: bool) -> Digest:
        """What stands for the content; of a dataset that is output too, that from before our first change.

        Raises:
            OutputError, DatasetError: see ``record_of_changed``.
        """
        record = self.record if is_output else None
        if record is not None and record.source_identity is not None:
            return Digest(record.source_identity)
        return digest_json(self.marks)


def folder_tree(root: Path) -> SourceTree:
    """The dataset in the folder ``root``.

    Raises:
        DatasetError: it holds something that is no file, or a file can't be read.
    """
    try:
        files = source_files(root)
        return SourceTree(root, files, {name: mark_file(name, path) for name, path in files})
    except OSError as error:
        raise DatasetError(f"can't read the source: {error}; check permissions") from error


def source_identity(source: Path, output: Path) -> Digest:
    """The identity of the folder ``source`` in the digest of a change that goes to ``output``.

    Raises:
        DatasetError, OutputError: see ``folder_tree`` and ``SourceTree.identity``.
    """
    source = source.resolve()
    return folder_tree(source).identity(is_output=source == output.resolve())
