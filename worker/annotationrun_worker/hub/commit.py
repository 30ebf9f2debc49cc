"""A commit: what it changes, and how its bytes get there.

Which files a commit must add, copy and delete: pure, from listings alone.

The bytes of a commit: sent from here, copied on the server, or streamed through this machine.

Large files go by Git LFS over plain HTTP; they are uploaded before the commit, which names them.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import FileDuplicationError, HfHubHTTPError

from annotationrun_worker.errors import DatasetError, OutputError, StorageError
from annotationrun_worker.hub.client import hub_call, is_transient, short
from annotationrun_worker.hub.publication import (
    CARD_NAME,
    DATASET_FOLDERS,
    RECORD_NAME,
    DesiredFile,
    HubSource,
    HubTarget,
)
from annotationrun_worker.hub.repository import REPO_TYPE, HubFile, HubRepository, content_name


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """Paths, each sorted."""

    uploads: Mapping[str, Path]
    """From this machine."""
    copies: Mapping[str, HubFile]
    """In LFS at the source: the server can copy them."""
    fetches: Mapping[str, HubFile]
    """Not in LFS, at the source only: small, fetched and added."""
    deletions: tuple[str, ...]


def plan_commit(
    desired: Mapping[str, DesiredFile],
    present: Mapping[str, HubFile],
    source_files: Mapping[str, HubFile],
    *,
    is_in_place: bool = False,
    blob_id_of: Callable[[Path], str] = lambda path: content_name(path, in_lfs=False),
) -> CommitPlan:
    """Compare what shall be with what is there.

    What has the same content stays as it is. Files are deleted only below the folders of a dataset (LeRobot
    reads all Parquet files that it finds there): never the card, hidden files, or what a user put beside.

    Args:
        desired: the dataset; the card and hidden files in it are left out of account.
        present: all files of the target's head.
        source_files: all files of the source's commit; empty for a folder.
        is_in_place: the target's branch is the source: nothing of it is deleted.
        blob_id_of: gives Git's SHA-1 of a file here; asked only where the target's is not in LFS.

    Raises:
        DatasetError: a file is neither here nor at the source.
    """
    uploads: dict[str, Path] = {}
    copies: dict[str, HubFile] = {}
    fetches: dict[str, HubFile] = {}
    for path, file in sorted(desired.items()):
        if is_kept(path):
            continue
        there = present.get(path)
        if file.local is not None:
            if not _holds(there, file, file.local, blob_id_of):
                uploads[path] = file.local
            continue
        at_source = source_files.get(path)
        if at_source is None:
            raise DatasetError(f"{path!r} is neither on this machine nor in the source's commit")
        if there is None or there.content_name != at_source.content_name:
            (fetches if at_source.sha256 is None else copies)[path] = at_source
    surplus = sorted(path for path in present.keys() - desired if in_dataset(path))
    return CommitPlan(uploads, copies, fetches, () if is_in_place else tuple(surplus))


def is_kept(path: str) -> bool:
    """Whether ``path`` is its owner's: hidden files, and the card, of which one section is ours."""
    return path == CARD_NAME or path.startswith(".")


def in_dataset(path: str) -> bool:
    """Whether LeRobot may read it."""
    return path.split("/", 1)[0] in DATASET_FOLDERS and "/" in path


def check_target(
    desired: Mapping[str, DesiredFile],
    present: Mapping[str, HubFile],
    source_files: Mapping[str, HubFile] | None,
    recorded: object = None,
) -> None:
    """Refuse a target that holds somebody else's dataset, where no commit of ours tells what it held.

    Args:
        desired: the dataset.
        present: all files of the target's head.
        source_files: of the source's commit, where the target is another branch of the same repository, which
            begins as the source; ``None``: it is another repository.
        recorded: the files that the target's record names, with their marks; anything else: it has none.

    Raises:
        OutputError: the target holds files that no merge of ours made.
    """
    foreign = sorted(path for path in present if not is_kept(path))
    if not foreign:
        return
    if source_files is not None and moved_file(desired, source_files, present) is None:
        return
    if RECORD_NAME in present:
        changed = otherwise_than_recorded(recorded, present)
        if changed is None:
            return
        raise OutputError(
            f"the output repository holds a merged dataset that was changed since: {changed!r} is not what "
            "its record says; name a repository that is new or empty, or a branch that does not exist"
        )
    raise OutputError(
        f"the output repository holds files that no merge made, such as {foreign[0]!r}, and no "
        f"{RECORD_NAME!r}; name a repository that is new or empty, or a branch that does not exist"
    )


def check_not_in_place(record: Mapping[str, object]) -> None:
    """Refuse a target that was annotated in place: its dataset is there only, and is never replaced.

    Raises:
        OutputError: its record says so.
    """
    if record.get("sourceIdentity") is not None:
        raise OutputError(
            "the output repository holds a dataset that was annotated in place, which is never replaced by "
            "another; name another output, or a branch that does not exist"
        )


def otherwise_than_recorded(recorded: object, present: Mapping[str, HubFile]) -> str | None:
    """The first file of a commit that is not what its record says, as far as the listing tells.

    Args:
        recorded: marks by path: SHA-256 in hex digits, or the size in bytes. Anything else: no record.
        present: all files of the commit.
    """
    if not isinstance(recorded, Mapping):
        return RECORD_NAME
    for path in sorted(recorded.keys() | {path for path in present if in_dataset(path)} - {RECORD_NAME}):
        if is_kept(path):
            continue
        there, mark = present.get(path), recorded.get(path)
        if there is None or mark is None:
            return path
        if there.size_bytes != mark if isinstance(mark, int) else there.sha256 not in {None, mark}:
            return path
    return None


def moved_file(
    desired: Mapping[str, DesiredFile], before: Mapping[str, HubFile], after: Mapping[str, HubFile]
) -> str | None:
    """The first file that differs between two commits, and that a merge read or a publish would write."""
    for path in sorted(before.keys() | after.keys()):
        old, new = before.get(path), after.get(path)
        is_same = old is not None and new is not None and old.content_name == new.content_name
        if not is_same and (in_dataset(path) or (path in desired and not is_kept(path))):
            return path
    return None


def lacking_file(
    desired: Mapping[str, DesiredFile], source_files: Mapping[str, HubFile], present: Mapping[str, HubFile]
) -> str | None:
    """The first desired file that a commit lacks or has otherwise, as far as its listing tells."""
    for path, file in sorted(desired.items()):
        if is_kept(path):
            continue
        there = present.get(path)
        if there is None or there.size_bytes != file.size_bytes:
            return path
        sha256 = file.sha256
        if sha256 is None and file.local is None:
            sha256 = source_files[path].sha256
        if there.sha256 is not None and sha256 is not None and there.sha256 != sha256:
            return path
    return None


def _holds(there: HubFile | None, file: DesiredFile, local: Path, blob_id_of: Callable[[Path], str]) -> bool:
    if there is None or there.size_bytes != file.size_bytes:
        return False
    if there.sha256 is not None:
        return there.sha256 == file.sha256
    return there.blob_id == blob_id_of(local)


Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

_SHA256: Final = re.compile(r"\b[0-9a-f]{64}\b")


@dataclass(frozen=True, slots=True)
class ReadyOperations:
    """A commit's operations, with all large files at the Hub but those that it copies."""

    operations: list[Operation]
    uploaded_bytes: int
    copied_files: int


class CommitContents:
    """Makes operations of plans; what was streamed for one plan serves the next."""

    def __init__(
        self, repository: HubRepository, target: HubTarget, source: HubSource | None, folder: Path
    ) -> None:
        """Nothing is sent yet; ``folder`` takes one file at a time while it is streamed."""
        self._repository = repository
        self._target = target
        self._source = source
        self._folder = folder
        self._fetched: dict[str, CommitOperationAdd] = {}
        self._refused: set[str] = set()
        self._is_refused_again = False

    @property
    def is_streamed(self) -> bool:
        """Whether the server refused to copy a file."""
        return bool(self._refused)

    def prepare(self, plan: CommitPlan, card: bytes) -> ReadyOperations:
        """Upload what is large and here; fetch and add what must come from the source through here.

        Raises:
            HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
            DatasetError: the source lacks a file.
            OutputError: the Hub refuses an upload.
            StorageError: no room to stream a file.
        """
        additions = [CommitOperationAdd(CARD_NAME, card)]
        additions += [CommitOperationAdd(path, str(local)) for path, local in plan.uploads.items()]
        self._upload(additions, keep=True)
        streamed = {path: file for path, file in plan.copies.items() if path in self._refused}
        for path, file in {**plan.fetches, **streamed}.items():
            if path not in self._fetched:
                self._fetched[path] = self._fetch(file)
            additions.append(self._fetched[path])
        copies = [self._copy(file) for path, file in plan.copies.items() if path not in self._refused]
        deletions = [CommitOperationDelete(path, is_folder=False) for path in plan.deletions]
        return ReadyOperations(
            [*additions, *copies, *deletions], sum(add.upload_info.size for add in additions), len(copies)
        )

    def note_refusal(self, plan: CommitPlan, error: Exception) -> bool:
        """Whether ``error`` is the server's refusal to copy; then the next ``prepare`` streams those files.

        The Hub copies between repositories of one storage region only, files that it has in its chunk store
        (with a Xet hash), and what the token may read. It names the files that it could not copy in batches;
        after the second refusal none is tried again.
        """
        left = {path: file for path, file in plan.copies.items() if path not in self._refused}
        if not left or not self._is_refusal(error):
            return False
        named = set(_SHA256.findall(str(error))) if isinstance(error, FileDuplicationError) else set()
        refused = {path for path, file in left.items() if file.sha256 in named}
        self._refused |= refused if refused and not self._is_refused_again else left.keys()
        self._is_refused_again = True
        return True

    def _is_refusal(self, error: Exception) -> bool:
        if self._source is None or self._source.repository.repo_id == self._repository.repo_id:
            return False
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            path = f"/api/{REPO_TYPE}s/{self._source.repository.repo_id}/"
            return not is_transient(error) and path in str(error.response.request.url)
        is_unhashed = isinstance(error, ValueError) and "has no xet hash" in str(error)
        return is_unhashed or isinstance(error, FileDuplicationError)

    def _upload(self, additions: Iterable[CommitOperationAdd], *, keep: bool) -> None:
        """Send what the Hub wants in LFS; unless ``keep``, the operations forget where it lies here."""
        what = f"uploading to dataset {self._repository.repo_id!r}"
        try:
            hub_call(
                what,
                lambda: self._repository.api.preupload_lfs_files(
                    self._repository.repo_id,
                    additions,
                    repo_type=REPO_TYPE,
                    revision=self._target.branch,
                    create_pr=self._target.pull_request,
                    free_memory=not keep,
                ),
            )
        except (HfHubHTTPError, RuntimeError, ValueError) as error:
            raise OutputError(f"{what}: the Hub refuses it: {short(error)}") from error

    def _fetch(self, file: HubFile) -> CommitOperationAdd:
        """A file of the source, by way of this machine."""
        if self._source is None:
            raise AssertionError("plan_commit fetches and copies only from a source")
        local = self._folder / "streamed"
        try:
            self._source.repository.download(file, self._source.commit, local)
            addition = CommitOperationAdd(file.path, str(local))
            self._upload([addition], keep=False)
            if addition.path_or_fileobj != b"":  # not in LFS here: small, and part of the commit
                addition = CommitOperationAdd(file.path, local.read_bytes())
            local.unlink()
        except OSError as error:
            if error.errno is None:
                raise  # not of the disk
            raise StorageError(
                f"can't stream {file.path!r} ({file.size_bytes} bytes) through {self._folder}: {error}; make "
                "room there, or name another place with TMPDIR"
            ) from error
        return addition

    def _copy(self, file: HubFile) -> CommitOperationCopy:
        if self._source is None:
            raise AssertionError("plan_commit fetches and copies only from a source")
        if self._source.repository.repo_id == self._repository.repo_id:
            return CommitOperationCopy(file.path, file.path, src_revision=self._source.commit)
        return CommitOperationCopy(
            file.path,
            file.path,
            src_revision=self._source.commit,
            src_repo_id=self._source.repository.repo_id,
            src_repo_type=REPO_TYPE,
        )
