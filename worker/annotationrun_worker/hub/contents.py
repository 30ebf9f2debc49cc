"""The bytes of a commit: sent from here, copied on the server, or streamed through this machine.

Large files go by Git LFS over plain HTTP; they are uploaded before the commit, which names them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import FileDuplicationError, HfHubHTTPError

from annotationrun_worker.errors import OutputError, StorageError
from annotationrun_worker.hub.calls import hub_call, is_transient, short
from annotationrun_worker.hub.commit_plan import CommitPlan
from annotationrun_worker.hub.publication import CARD_NAME, HubSource, HubTarget
from annotationrun_worker.hub.repository import REPO_TYPE, HubFile, HubRepository

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
