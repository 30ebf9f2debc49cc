"""A repository on the Hub, read, and the commits that its revisions name.

Revisions of repositories on the Hub, and the commits that they name now.

A dataset repository on the Hub, read: its commits, its files, their content.
"""

import contextlib
import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, Literal

from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from annotationrun_worker.errors import DatasetError, HubAccessError, HubUnavailableError
from annotationrun_worker.hub.client import ATTEMPTS, read_call
from annotationrun_worker.staging.digests import is_commit

RepoType = Literal["dataset", "model"]


def commit_named(
    api: HfApi,
    repo_type: RepoType,
    repo_id: str,
    revision: str,
    *,
    attempts: int = ATTEMPTS,
    timeout_seconds: float | None = None,
) -> str:
    """The SHA of the commit that ``revision`` (branch, tag or commit) of a repository names now.

    Nothing is asked for a whole SHA: whether there is such a commit shows when its files are listed.

    Args:
        api: with the Hub's address, and the token.
        repo_type: of the repository.
        repo_id: ``"owner/name"``.
        revision: to look up.
        attempts: tries at most.
        timeout_seconds: for the connection and for each silence of the Hub; ``None``: as for all requests.

    Raises:
        HubAccessError: there is no such repository or revision, or it may not be read.
        HubUnavailableError: the Hub does not answer.
    """
    if is_commit(revision):
        return revision
    what = f"reading {repo_type} {repo_id!r} at {revision!r}"
    info = read_call(
        what,
        lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=timeout_seconds),
        attempts=attempts,
    )
    if info.sha is None or not is_commit(info.sha):
        raise HubAccessError(f"{what}: the Hub names the commit {info.sha!r}, expected a SHA-1; refused")
    return info.sha


def model_commit(
    model_id: str, revision: str, token: str | None, *, patience_seconds: float | None = None
) -> str:
    """The SHA of the commit that ``revision`` of a model names now.

    Args:
        model_id: its repository.
        revision: to look up.
        token: that may read it; ``None``: asked as anybody.
        patience_seconds: with a Hub that does not answer, in one try; ``None``: as for all requests.

    Raises:
        HubAccessError, HubUnavailableError: see ``commit_named``.
    """
    return commit_named(
        HfApi(token=token or False),  # False: huggingface_hub would else take any token that it finds
        "model",
        model_id,
        revision,
        attempts=ATTEMPTS if patience_seconds is None else 1,
        timeout_seconds=patience_seconds,
    )


def is_offline() -> bool:
    """Whether the environment variable HF_HUB_OFFLINE forbids to ask the Hub."""
    return constants.is_offline_mode()


REPO_TYPE: Final = "dataset"
_PIECE_BYTES: Final = 1 << 20
_PARTIAL_CONTENT: Final = 206
_CONTENT_NAME: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at one commit, as the Hub's listing shows it."""

    path: str
    """Relative to the repository, with slashes."""
    size_bytes: int
    blob_id: str
    """Git's SHA-1 of the blob; of a file in LFS that of its pointer."""
    sha256: str | None
    """Of the content, if it lies in LFS; else ``None``."""

    @property
    def content_name(self) -> str:
        """Stands for the content: its SHA-256 in LFS, else Git's SHA-1 of the blob (hex)."""
        return self.sha256 or self.blob_id


class HubRepository:
    """A dataset repository; what is asked of it may be answered by any commit."""

    def __init__(self, repo_id: str, token: str | None = None, endpoint: str | None = None) -> None:
        """Nothing is asked yet.

        Args:
            repo_id: ``"owner/name"``.
            token: that may read it, or write to it; ``None``: asked as anybody.
            endpoint: base URL of the Hub; ``None``: what ``HF_ENDPOINT`` says, else huggingface.co.
        """
        self.repo_id = repo_id
        # False: huggingface_hub would else take any token that it finds on the machine.
        self.api = HfApi(endpoint=endpoint, token=token or False)

    def __repr__(self) -> str:
        return f"HubRepository({self.repo_id!r})"

    def resolve(self, revision: str) -> str:
        """The SHA of the commit that ``revision`` (branch, tag or commit) names now.

        Nothing is asked for a whole SHA: whether there is such a commit shows when its files are listed.

        Raises:
            HubAccessError: there is no such repository or revision, or it may not be read.
            HubUnavailableError: the Hub does not answer.
        """
        return commit_named(self.api, REPO_TYPE, self.repo_id, revision)

    def head(self, branch: str) -> str | None:
        """The SHA of the last commit of ``branch``; ``None`` where the repository or the branch is missing.

        Raises:
            HubAccessError, HubUnavailableError: see ``resolve``.
        """
        try:
            return self.resolve(branch)
        except HubAccessError as error:
            if type(error.__cause__) in {RepositoryNotFoundError, RevisionNotFoundError}:
                return None
            raise

    def files(self, commit: str) -> Mapping[str, HubFile]:
        """All files of the commit, by path.

        Raises:
            HubAccessError, HubUnavailableError: see ``resolve``.
            DatasetError: a path leads out of the repository.
        """
        found = read_call(
            f"listing dataset {self.repo_id!r} at {commit}",
            lambda: list(
                self.api.list_repo_tree(self.repo_id, repo_type=REPO_TYPE, revision=commit, recursive=True)
            ),
        )
        return {file.path: _hub_file(file) for file in found if isinstance(file, RepoFile)}

    def download(
        self, file: HubFile, commit: str, target: Path, stopped: threading.Event | None = None
    ) -> None:
        """Fetch ``file`` to ``target``; what is there already is its beginning, and is not fetched again.

        As long as something comes, it is tried again.

        Args:
            file: as it is listed at ``commit``.
            commit: SHA.
            target: has the file in the end.
            stopped: once it is set, the transfer is given up.

        Raises:
            DatasetError: the commit has no such file.
            HubAccessError: see ``resolve``.
            HubUnavailableError: the Hub does not answer, or what comes is not what its listing says.
            OSError: ``target`` can't be written.
        """
        what = f"fetching {file.path!r} of dataset {self.repo_id!r} at {commit}"
        url = hf_hub_url(
            self.repo_id, file.path, repo_type=REPO_TYPE, revision=commit, endpoint=self.api.endpoint
        )
        headers = build_hf_headers(token=self.api.token)

        def fetch() -> None:
            with target.open("ab") as content:
                _transfer(url, headers, content, file.size_bytes, stopped)
            if content_name(target, in_lfs=file.sha256 is not None) != file.content_name:
                target.unlink()
                raise ConnectionError("the bytes that came are not those of the file")

        while True:
            had_bytes = _size(target)
            try:
                read_call(what, fetch, stopped)
            except EntryNotFoundError as error:
                raise DatasetError(
                    f"{what}: the commit has no such file; is the dataset complete?"
                ) from error
            except HubUnavailableError:
                if _size(target) > had_bytes and not (stopped and stopped.is_set()):
                    continue
                raise
            return


def _transfer(
    url: str, headers: Mapping[str, str], content: BinaryIO, size_bytes: int, stopped: threading.Event | None
) -> None:
    """Append what lacks of a file of ``size_bytes``.

    Not huggingface_hub's ``http_get``: that has retries of its own, which neither end when the run does nor
    wait as the Hub says.
    """
    if content.tell() > size_bytes:
        content.seek(content.truncate(0))
    begun = content.tell()
    if begun == size_bytes:
        return
    # Compressed on the way, a file could not be gone on with.
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={begun}-"} if begun else {})}
    with get_session().stream(
        "GET", url, headers=asked, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        if begun and response.status_code != _PARTIAL_CONTENT:
            content.seek(content.truncate(0))
        for piece in response.iter_bytes():
            content.write(piece)
            if content.tell() > size_bytes:
                break
            if stopped is not None and stopped.is_set():
                raise ConnectionError("given up, as the run ends")
    if content.tell() != size_bytes:
        raise ConnectionError(f"{content.tell()} bytes came of a file of {size_bytes}")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def content_name(path: Path, *, in_lfs: bool) -> str:
    """The ``HubFile.content_name`` of a file of this machine."""
    with path.open("rb") as content:
        if in_lfs:
            return hashlib.file_digest(content, "sha256").hexdigest()
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while piece := content.read(_PIECE_BYTES):
            digest.update(piece)
        return digest.hexdigest()


def _hub_file(file: RepoFile) -> HubFile:
    found = HubFile(file.path, file.size, file.blob_id, None if file.lfs is None else file.lfs.sha256)
    parts = PurePosixPath(found.path).parts
    if found.path.startswith("/") or ".." in parts or not _CONTENT_NAME.fullmatch(found.content_name):
        raise DatasetError(
            f"the Hub lists a file {found.path!r} with the content {found.content_name!r}; expected a path "
            "within the repository and a digest; refused"
        )
    return found
