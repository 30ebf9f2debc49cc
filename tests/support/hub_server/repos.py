"""Repos as the Hub keeps them: commits over snapshots of files, refs, and the store of the large files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Literal

from tests.support.hub_server.replies import HubError, entry_not_found, revision_not_found

RepoType = Literal["dataset", "model"]
DEFAULT_ATTRIBUTES = ("*.arrow", "*.mp4", "*.parquet", "*.safetensors")


def git_hash(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    content: bytes = field(repr=False)
    is_lfs: bool

    @property
    def size(self) -> int:
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        """What Git holds for a large file (github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        ).encode()

    @cached_property
    def oid(self) -> str:
        """Git's name of the blob: for a large file, of its pointer."""
        return git_hash("blob", self.pointer if self.is_lfs else self.content)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    @property
    def xet_hash(self) -> str:
        """Made up: true ones come of chunks, and nothing here looks into them."""
        return hashlib.sha256(b"xet" + self.sha256.encode()).hexdigest()


Files = Mapping[str, StoredFile]


@dataclass(frozen=True, slots=True)
class Commit:
    """A snapshot with its history."""

    sha: str
    parent: str | None
    title: str
    message: str
    """All below the title."""
    author: str
    date: datetime
    files: Files = field(repr=False)


@dataclass
class PullRequest:
    num: int
    title: str
    author: str
    date: datetime
    base: str
    """The commit that it started from."""
    is_pull_request: bool = True
    status: str = "open"
    description: str = ""
    merge_commit: str | None = None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """A dataset or a model. Not thread-safe: the server handles one request at a time."""

    repo_type: RepoType
    repo_id: str
    private: bool = False
    gated: Literal["auto", "manual", False] = False
    granted: set[str] = field(default_factory=set)
    """Users who may fetch files of a gated repo, beside its owner."""
    region: str = "us"
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)
    pull_heads: dict[int, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """The store of the large files, by SHA-256; it may hold what no commit names."""
    pending: set[str] = field(default_factory=set)
    """Large files that are still being copied here."""
    without_xet: set[str] = field(default_factory=set)
    """Large files that the Hub has not yet moved into its chunk store: they have no Xet hash."""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def key(self) -> str:
        """As in the counters: ``datasets/user/name``."""
        return f"{self.repo_type}s/{self.repo_id}"

    @property
    def url_path(self) -> str:
        return self.repo_id if self.repo_type == "model" else self.key

    @property
    def namespace(self) -> str:
        return self.repo_id.partition("/")[0]

    def xet_hash(self, file: StoredFile) -> str | None:
        return file.xet_hash if file.is_lfs and file.sha256 not in self.without_xet else None

    def commit_at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, ``refs/...`` or a SHA (7 characters at least)."""
        for refs, prefix in ((self.branches, "refs/heads/"), (self.tags, "refs/tags/")):
            sha = refs.get(revision) or refs.get(revision.removeprefix(prefix))
            if sha is not None:
                return self.commits[sha]
        number = revision.removeprefix("refs/pr/")
        if number != revision and number.isdigit() and int(number) in self.pull_heads:
            return self.commits[self.pull_heads[int(number)]]
        matching = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(matching) == 1:
            return self.commits[matching[0]]
        raise revision_not_found(revision)

    def file_at(self, revision: str, path: str) -> tuple[Commit, StoredFile]:
        commit = self.commit_at(revision)
        if path not in commit.files:
            raise entry_not_found(commit=commit.sha)
        return commit, commit.files[path]

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        found = [self.commit_at(revision)]
        while (parent := found[-1].parent) is not None:
            found.append(self.commits[parent])
        return found

    def make_commit(self, parent: str | None, files: Files, title: str, message: str, author: str) -> Commit:
        """A commit that no ref points to yet; the large files are in the store afterwards."""
        date = datetime.now(UTC)
        tree = {path: files[path].oid for path in sorted(files)}
        named = json.dumps([parent, tree, title, message, author, str(date), len(self.commits)])
        commit = Commit(git_hash("commit", named.encode()), parent, title, message, author, date, dict(files))
        self.commits[commit.sha] = commit
        self.large |= {file.sha256: file.content for file in files.values() if file.is_lfs}
        return commit

    def move(self, ref: str, commit: Commit) -> None:
        """Set a branch or a pull request's head."""
        number = ref.removeprefix("refs/pr/")
        if number != ref:
            self.pull_heads[int(number)] = commit.sha
        else:
            self.branches[ref] = commit.sha

    def writable_ref(self, revision: str) -> str:
        """The name of a branch, or ``refs/pr/N``: nothing else takes commits."""
        if (name := revision.removeprefix("refs/heads/")) in self.branches:
            return name
        number = revision.removeprefix("refs/pr/")
        if number != revision and number.isdigit() and int(number) in self.pull_heads:
            return revision
        raise revision_not_found(revision)

    def open_pull_request(self, title: str, author: str, base: str, description: str = "") -> PullRequest:
        num = max(self.pulls, default=0) + 1
        pull = PullRequest(num, title, author, datetime.now(UTC), base, description=description)
        self.pulls[num] = pull
        self.pull_heads[num] = base
        return pull

    def merge(self, num: int, author: str) -> Commit:
        """Put what a pull request changed onto main.

        Raises:
            HubError: 409, where main changed one of its files meanwhile.
        """
        pull = self.pulls[num]
        base, ours = self.commits[pull.base].files, dict(self.commit_at("main").files)
        theirs = self.commits[self.pull_heads[num]].files
        for path in base.keys() | theirs.keys():
            if base.get(path) == theirs.get(path):
                continue
            if ours.get(path) != base.get(path):
                raise HubError(409, f"This pull request has a conflict in {path}")
            if path in theirs:
                ours[path] = theirs[path]
            else:
                del ours[path]
        title = f"{pull.title} (#{num})"
        commit = self.make_commit(self.branches["main"], ours, title, pull.description, author)
        self.branches["main"] = commit.sha
        pull.status, pull.merge_commit = "merged", commit.sha
        return commit
