"""Endpoints that write into a repo: commits, branches, tags."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from tests.support.hub_server.replies import HubError, Reply, Request, entry_not_found, json_reply
from tests.support.hub_server.repos import Commit, Repo, StoredFile
from tests.support.hub_server.state import MIB, Account, Hub

LARGEST_REGULAR_BYTES = 10 * MIB


def preupload(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """Which of these files go over LFS, and what the repo has under their names."""
    repo = _repo_to_commit_to(hub, request, key)[0]
    commit = repo.commit_at(rest[0])
    asked = request.json().get("files")
    if not isinstance(asked, list):
        raise HubError(400, "files: not a list")
    if len(asked) > 256:
        raise HubError(413, "too many files")
    lines = []
    for one in asked:
        path = str(one["path"])
        mode = "lfs" if hub.is_large(path, int(one["size"])) else "regular"
        line: dict[str, Any] = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if path in commit.files:
            line["oid"] = commit.files[path].etag
        lines.append(line)
    return json_reply({"files": lines, "commitOid": commit.sha})


def _repo_to_commit_to(hub: Hub, request: Request, key: str) -> tuple[Repo, Account]:
    """Pull requests may come from whoever sees the repo, but not by a token that only reads."""
    if not request.is_set("create_pr"):
        return hub.writable(request, key)
    account = hub.proposer(request)
    return hub.readable(request, key), account


def commit(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """One commit, of lines of JSON: a header, then what changes."""
    repo, account = _repo_to_commit_to(hub, request, key)
    with_request = request.is_set("create_pr")
    ref = repo.writable_ref(rest[0])
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    if not lines or lines[0].get("key") != "header":
        raise HubError(400, "The first line is not a header")
    header = lines[0]["value"]
    title, message = str(header.get("summary") or ""), str(header.get("description") or "")
    if not title:
        raise HubError(400, "Commit summary is required")
    base = _base(repo, ref, header.get("parentCommit"), with_request)
    files = dict(base.files)
    for line in lines[1:]:
        _apply(hub, repo, files, str(line["key"]), line["value"])
    if with_request:
        pull = repo.open_pull_request(title, account.name, base.sha, message)
        ref = pull.ref
    made = repo.make_commit(base.sha, files, title, message, account.name)
    repo.move(ref, made)
    _count(hub, repo, lines[1:])
    url = f"{request.hub_url}/{repo.url_path}"
    value = {
        "success": True,
        "commitOid": made.sha,
        "commitUrl": f"{url}/commit/{made.sha}",
        "hookOutput": "",
    }
    if with_request:
        value["pullRequestUrl"] = f"{url}/discussions/{pull.num}"
    return json_reply(value)


def _base(repo: Repo, ref: str, parent: str | None, with_request: bool) -> Commit:
    """The commit to build upon: the head, which has to be `parent` if that is given.

    Raises:
        HubError: 412, somebody else was faster; 404, no such commit.
    """
    head = repo.commit_at(ref)
    if parent is None or head.sha.startswith(parent):
        return head
    if with_request:
        return repo.commit_at(parent)
    raise HubError(412, "A commit has happened since. Please refresh and try again.")


def _apply(hub: Hub, repo: Repo, files: dict[str, StoredFile], kind: str, value: dict[str, Any]) -> None:
    path = str(value["path"])
    match kind:
        case "file":
            content = _content(value)
            if len(content) > LARGEST_REGULAR_BYTES:
                raise HubError(400, f"{path}: files larger than 10 MiB have to be uploaded over LFS")
            files[path] = StoredFile(content, is_lfs=False)
        case "lfsFile":
            sha256 = str(value["oid"])
            if sha256 not in repo.large or sha256 in repo.pending:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}, {sha256}")
            files[path] = StoredFile(repo.large[sha256], is_lfs=True)
        case "deletedFile":
            if path not in files:
                raise entry_not_found("A file with this name doesn't exist")
            del files[path]
        case "deletedFolder":
            below = [name for name in files if name.startswith(f"{path.strip('/')}/")]
            if not below:
                raise entry_not_found("A folder with this name doesn't exist")
            for name in below:
                del files[name]
        case _:
            raise HubError(400, f"Unknown operation {kind!r}")


def _count(hub: Hub, repo: Repo, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        path, value = str(line["value"]["path"]), line["value"]
        if line["key"] == "file":
            hub.counters.receive(repo.key, path, len(_content(value)))
        elif line["key"] == "lfsFile":
            hub.counters.name_upload(repo.key, str(value["oid"]), path)


def _content(value: dict[str, Any]) -> bytes:
    """Of a file within a commit."""
    text = str(value["content"])
    return base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()


def branch(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo, _ = hub.writable(request, key)
    name = "/".join(rest)
    if request.method == "DELETE":
        if name == "main":
            raise HubError(403, "The main branch cannot be deleted")
        if name not in repo.branches:
            raise HubError(404, f"Reference does not exist: {name}", "RevisionNotFound")
        del repo.branches[name]
        return json_reply({"success": True})
    start = repo.commit_at(str(request.json().get("startingPoint") or "main"))
    if name in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{name}")
    repo.branches[name] = start.sha
    return json_reply({"success": True})


def tag(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """Create (at a revision) or delete; a tag that exists is never moved."""
    repo, _ = hub.writable(request, key)
    name = "/".join(rest)
    if request.method == "DELETE":
        if name not in repo.tags:
            raise HubError(404, f"Tag not found: {name}", "RevisionNotFound")
        del repo.tags[name]
        return json_reply({"success": True})
    made = str(request.json().get("tag") or "")
    if not made:
        raise HubError(400, "tag: missing")
    found = repo.commit_at(name)
    if made in repo.tags:
        raise HubError(409, f"Tag reference exists already: {made}")
    repo.tags[made] = found.sha
    return json_reply({"success": True})
