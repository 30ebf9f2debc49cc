"""A Hugging Face Hub for tests: `HubServer` runs it in this process."""

import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.support.hub_server.counters import Counters
from tests.support.hub_server.faults import Faults
from tests.support.hub_server.listener import Listener
from tests.support.hub_server.repos import Commit, Repo, RepoType
from tests.support.hub_server.state import Account, Hub, Settings, folder_contents

DEFAULT_TOKEN = "hf_test"


class HubServer:
    """Serves the protocol of the Hub's client on two ports, those of the Hub and of its CDN.

    Large files come from the CDN's port by links with a signature, and go to it. There is no Xet storage:
    clients need ``HF_HUB_DISABLE_XET=1``, as in `environment`.

    Args:
        settings: See `Settings`; they may be changed while it runs.
        host: The interface; "0.0.0.0" for all.
        port: Of the Hub; 0 takes a free one.
        cdn_port: Of the CDN; 0 takes a free one.
    """

    def __init__(
        self, settings: Settings | None = None, host: str = "127.0.0.1", port: int = 0, cdn_port: int = 0
    ) -> None:
        self.hub = Hub(settings=settings or Settings())
        self.hub.accounts[DEFAULT_TOKEN] = Account("me")
        self.faults = Faults()
        numbers = count(1)
        self._listeners = [Listener((host, at), self.hub, self.faults, numbers) for at in (port, cdn_port)]
        self.port, self.cdn_port = (listener.port for listener in self._listeners)
        for listener in self._listeners:
            listener.cdn_port = self.cdn_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for listener in self._listeners:
            thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.faults.clear()
        for listener in self._listeners:
            listener.shutdown()
            listener.drop_connections()
            listener.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def counters(self) -> Counters:
        return self.hub.counters

    @property
    def settings(self) -> Settings:
        return self.hub.settings

    @property
    def environment(self) -> dict[str, str]:
        """For processes that use the Hub's client: as the owner of what is under ``me/``."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": DEFAULT_TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def add_account(self, token: str, account: Account) -> None:
        self.hub.accounts[token] = account

    def add_repo(
        self,
        repo_id: str,
        files: Path | Mapping[str, bytes],
        repo_type: RepoType = "dataset",
        *,
        private: bool = False,
        gated: Literal["auto", "manual", False] = False,
    ) -> Commit:
        """Make a repo of a folder or of contents by path: its second commit, after ``.gitattributes``."""
        contents = folder_contents(files) if isinstance(files, Path) else files
        owner = repo_id.partition("/")[0]
        with self.hub.lock:
            repo = self.hub.new_repo(repo_type, repo_id, owner)
            repo.private, repo.gated = private, gated
            return self.hub.commit(repo, contents, "Upload dataset", author=owner)

    def repo(self, repo_id: str, repo_type: RepoType = "dataset") -> Repo:
        """The repo itself: its refs, its commits, who may fetch it, its region. Not a copy."""
        return self.hub.repos[f"{repo_type}s/{repo_id}"]

    def append_commit(
        self,
        repo_id: str,
        changed: Mapping[str, bytes | None],
        title: str = "Upstream change",
        *,
        message: str = "",
        branch: str = "main",
        repo_type: RepoType = "dataset",
    ) -> Commit:
        """As somebody else would: write files, and delete those with None; not counted."""
        with self.hub.lock:
            return self.hub.commit(self.repo(repo_id, repo_type), changed, title, branch, message=message)

    def read_file(
        self, repo_id: str, path: str, revision: str = "main", repo_type: RepoType = "dataset"
    ) -> bytes:
        """Content at a revision, past all counters."""
        with self.hub.lock:
            return self.repo(repo_id, repo_type).file_at(revision, path)[1].content

    def files(
        self, repo_id: str, revision: str = "main", repo_type: RepoType = "dataset"
    ) -> dict[str, bytes]:
        """All contents at a revision, by path."""
        with self.hub.lock:
            found = self.repo(repo_id, repo_type).commit_at(revision).files
            return {path: file.content for path, file in found.items()}

    def commits(self, repo_id: str, revision: str = "main", repo_type: RepoType = "dataset") -> list[Commit]:
        """Newest first."""
        with self.hub.lock:
            return self.repo(repo_id, repo_type).history(revision)

    def finish_copies(self) -> None:
        """Large files of duplicated repos that were pending have arrived."""
        self.hub.finish_copies()

    def revoke_signatures(self) -> None:
        """All links given out so far are refused from now on."""
        with self.hub.lock:
            self.hub.secret += b"."
