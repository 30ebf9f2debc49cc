"""All that the server knows: repos, accounts, settings; and who may do what."""

import fnmatch
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import Literal
from urllib.parse import quote

from tests.support.hub_server.counters import Counters
from tests.support.hub_server.replies import HubError, Request, repo_not_found
from tests.support.hub_server.repos import (
    DEFAULT_ATTRIBUTES,
    Commit,
    Repo,
    RepoType,
    StoredFile,
)

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Scope:
    """What a fine-grained token may do with a repo, or with all of a namespace."""

    kind: Literal["user", "org", "dataset", "model"]
    name: str
    permissions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a token stands for, and what it may do."""

    name: str
    organizations: tuple[str, ...] = ()
    can_write: bool = True
    """Its role: ``write`` or ``read``; with `scopes` it is ``fineGrained``."""
    reads_only_in: tuple[str, ...] = ()
    """Organizations of which the account is a member that may only read."""
    scopes: tuple[Scope, ...] | None = None
    global_permissions: tuple[str, ...] = ()
    """Of a fine-grained token."""

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.organizations)

    @property
    def role(self) -> str:
        if self.scopes is not None:
            return "fineGrained"
        return "write" if self.can_write else "read"

    def may_write(self, namespace: str, repo: str = "") -> bool:
        """Write into a repo (``datasets/user/name``), or without one make one in the namespace."""
        if not self.can_write or not self.owns(namespace) or namespace in self.reads_only_in:
            return False
        prefix, _, repo_id = repo.partition("/")
        places = {("user", namespace), ("org", namespace), (prefix.removesuffix("s"), repo_id)}
        return self.scopes is None or any(
            (scope.kind, scope.name) in places and "repo.write" in scope.permissions for scope in self.scopes
        )

    @property
    def may_propose(self) -> bool:
        """Open pull requests, of repos that it sees."""
        if self.scopes is None:
            return self.can_write
        given = {*self.global_permissions, *(name for scope in self.scopes for name in scope.permissions)}
        return bool(given & {"repo.write", "discussion.write"})


@dataclass
class Settings:
    """What differs between deployments or years of the Hub, or would need huge files to be seen."""

    lfs_patterns: tuple[str, ...] = DEFAULT_ATTRIBUTES
    lfs_above_bytes: int = 10 * MIB
    """Of other files."""
    page_entries: int = 1000
    """Of a listing of files."""
    commits_per_page: int = 50
    multipart_above_bytes: int | None = None
    """Uploads above this go in parts; None: none."""
    part_bytes: int = 5 * MIB
    signature_seconds: float = 3600.0
    copies_are_pending: bool = False
    """Whether large files of a duplicated repo come later, by `finish_copies`."""
    uploads_have_xet_hash: bool = True
    """Whether files uploaded over LFS are at once in the chunk store."""


@dataclass
class Hub:
    """Everything behind the API. Handlers run under `lock`, one at a time."""

    accounts: dict[str, Account] = field(default_factory=dict)
    """By token."""
    settings: Settings = field(default_factory=Settings)
    repos: dict[str, Repo] = field(default_factory=dict)
    """By key, as in ``datasets/user/name``."""
    parts: dict[tuple[str, str, int], bytes] = field(default_factory=dict)
    """Of uploads under way: (repo's key, SHA-256, number of the part)."""
    counters: Counters = field(default_factory=Counters)
    lock: RLock = field(default_factory=RLock)
    secret: bytes = b"of this server"

    def is_large(self, path: str, size: int) -> bool:
        name = PurePosixPath(path).name
        by_name = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.settings.lfs_patterns)
        return by_name or size > self.settings.lfs_above_bytes

    def stored(self, path: str, content: bytes) -> StoredFile:
        return StoredFile(content, is_lfs=bool(content) and self.is_large(path, len(content)))

    def new_repo(self, repo_type: RepoType, repo_id: str, author: str) -> Repo:
        """A repo with its first commit, as the Hub makes it."""
        repo = Repo(repo_type, repo_id)
        if repo.key in self.repos:
            raise HubError(409, f"You already created this {repo_type} repo: {repo_id}")
        attributes = "".join(
            f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in self.settings.lfs_patterns
        )
        files = {".gitattributes": StoredFile(attributes.encode(), is_lfs=False)}
        repo.branches["main"] = repo.make_commit(None, files, "initial commit", "", author).sha
        self.repos[repo.key] = repo
        return repo

    def commit(
        self,
        repo: Repo,
        changed: Mapping[str, bytes | None],
        title: str,
        branch: str = "main",
        author: str = "someone",
        message: str = "",
    ) -> Commit:
        """Write (or with None delete) files; on the server's own behalf, past all counters."""
        head = repo.commit_at(branch)
        files: dict[str, StoredFile] = dict(head.files)
        for path, content in changed.items():
            if content is None:
                del files[path]
            else:
                files[path] = self.stored(path, content)
        commit = repo.make_commit(head.sha, files, title, message, author)
        repo.move(repo.writable_ref(branch), commit)
        return commit

    def finish_copies(self) -> None:
        """Large files of duplicated repos that were pending have arrived."""
        with self.lock:
            for repo in self.repos.values():
                repo.pending.clear()

    def account(self, request: Request) -> Account | None:
        """Of the request's token; None without one.

        Raises:
            HubError: 401, a token that nobody has.
        """
        header = request.headers.get("authorization")
        if header is None:
            return None
        account = self.accounts.get(header.removeprefix("Bearer "))
        if account is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return account

    def readable(self, request: Request, key: str) -> Repo:
        """A repo that the request may see.

        Raises:
            HubError: 404, or without a token 401; of both the client makes a ``RepositoryNotFoundError``.
        """
        account = self.account(request)
        repo = self.repos.get(key)
        if repo is not None and (not repo.private or (account and account.owns(repo.namespace))):
            return repo
        if account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise repo_not_found()

    def opened(self, request: Request, key: str) -> Repo:
        """A repo whose files the request may fetch.

        Raises:
            HubError: As `readable`; 401 or 403 where the repo is gated.
        """
        repo, account = self.readable(request, key), self.account(request)
        if not repo.gated or (account and (account.owns(repo.namespace) or account.name in repo.granted)):
            return repo
        name = f"{repo.repo_type} {repo.repo_id}"
        if account is None:
            message = f"Access to {name} is restricted. You must have access to it and be authenticated."
            raise HubError(401, message, "GatedRepo")
        message = f"Access to {name} is restricted and you are not in the authorized list."
        raise HubError(403, message, "GatedRepo")

    def owner(self, request: Request, namespace: str, repo: str = "") -> Account:
        """Whoever sends the request, if they may write into the repo, or make one in `namespace`."""
        account = self.account(request)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        if not account.may_write(namespace, repo):
            raise HubError(403, f"You don't have the rights to write into the namespace {namespace!r}")
        return account

    def writable(self, request: Request, key: str) -> tuple[Repo, Account]:
        repo = self.readable(request, key)
        return repo, self.owner(request, repo.namespace, key)

    def proposer(self, request: Request) -> Account:
        """Whoever sends the request, if they may open pull requests."""
        account = self.account(request)
        if account is None:
            raise HubError(401, "Invalid username or password.")
        if not account.may_propose:
            raise HubError(403, "You don't have the rights to open a pull request")
        return account

    def signed(self, method: str, base: str, path: str) -> str:
        """A link that works without a token, for a time."""
        expires = int(time.time() + self.settings.signature_seconds)
        signature = self._signature(method, path, expires)
        return f"{base}{quote(path)}?Expires={expires}&Signature={signature}"

    def check_signature(self, request: Request) -> None:
        if "authorization" in request.headers:  # as S3: only one way to be known at a time
            raise HubError(400, "Only one auth mechanism allowed")
        expires = int(request.query("Expires") or 0)
        method = "GET" if request.method == "HEAD" else request.method
        signature = self._signature(method, "/" + "/".join(request.segments), expires)
        if expires < time.time() or not hmac.compare_digest(signature, request.query("Signature") or ""):
            raise HubError(403, "Request has expired, or the signature does not match")

    def _signature(self, method: str, path: str, expires: int) -> str:
        return hmac.new(self.secret, f"{method}\n{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def folder_contents(folder: Path) -> dict[str, bytes]:
    """All files below, by their path in a repo."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
