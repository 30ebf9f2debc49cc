"""Listings of a commit's files, in the JSON that the Hub sends."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tests.support.hub_server.repos import Commit, Files, Repo, StoredFile, git_hash

POINTER_MODE, FOLDER_MODE = b"100644", b"40000"


def iso(date: datetime) -> str:
    """As ``2026-11-21T22:21:04.000Z``."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


def file_entry(repo: Repo, path: str, file: StoredFile, last: Commit | None) -> dict[str, Any]:
    """`last` is the commit that wrote the file, for ``expand``."""
    entry: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.is_lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
        if (xet_hash := repo.xet_hash(file)) is not None:
            entry["xetHash"] = xet_hash
    if last is not None:
        entry["lastCommit"] = {"id": last.sha, "title": last.title, "date": iso(last.date)}
    return entry


def folder_entry(files: Files, path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": tree_oid(files, path), "size": 0, "path": path}


def folders_of(files: Files) -> set[str]:
    """All of them, without the root."""
    found: set[str] = set()
    for path in files:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return found


def tree_oid(files: Files, folder: str) -> str:
    """Git's name of a folder; "" is the root."""
    prefix = f"{folder}/" if folder else ""
    children: dict[str, tuple[bytes, str]] = {}
    for path, file in files.items():
        if path.startswith(prefix):
            name, _, rest = path[len(prefix) :].partition("/")
            if not rest:
                children[name] = (POINTER_MODE, file.oid)
            elif name not in children:
                children[name] = (FOLDER_MODE, tree_oid(files, prefix + name))
    ordered = sorted(children, key=lambda name: name + "/" if children[name][0] == FOLDER_MODE else name)
    content = b"".join(
        children[name][0] + b" " + name.encode() + b"\0" + bytes.fromhex(children[name][1])
        for name in ordered
    )
    return git_hash("tree", content)


def listing(repo: Repo, commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """The entries under `folder` ("" is the root), folders first; [] where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    below = {
        path: file
        for path, file in commit.files.items()
        if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
    }
    folders = sorted(
        path
        for path in folders_of(commit.files)
        if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])
    )
    return [folder_entry(commit.files, path) for path in folders] + [
        file_entry(repo, path, below[path], writer(repo, commit, path) if expand else None)
        for path in sorted(below)
    ]


def entries_of(repo: Repo, commit: Commit, paths: Iterable[str], expand: bool) -> list[dict[str, Any]]:
    """Of these paths; those that are not there are left out."""
    folders = folders_of(commit.files)
    found = []
    for path in paths:
        if path in commit.files:
            last = writer(repo, commit, path) if expand else None
            found.append(file_entry(repo, path, commit.files[path], last))
        elif path.rstrip("/") in folders:
            found.append(folder_entry(commit.files, path.rstrip("/")))
    return found


def writer(repo: Repo, commit: Commit, path: str) -> Commit:
    """The last commit that changed the file."""
    while commit.parent is not None:
        parent = repo.commits[commit.parent]
        if path not in parent.files or parent.files[path].oid != commit.files[path].oid:
            return commit
        commit = parent
    return commit


def repo_info(repo: Repo, commit: Commit, with_blobs: bool) -> dict[str, Any]:
    """What ``GET /api/datasets/{id}`` sends."""
    siblings: list[dict[str, Any]] = []
    for path in sorted(commit.files):
        sibling: dict[str, Any] = {"rfilename": path}
        file = commit.files[path]
        if with_blobs:
            sibling |= {"size": file.size, "blobId": file.oid}
            if file.is_lfs:
                lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
                sibling["lfs"] = lfs
        siblings.append(sibling)
    info: dict[str, Any] = {
        "_id": git_hash("repo", repo.key.encode())[:24],
        "id": repo.repo_id,
        "author": repo.namespace,
        "sha": commit.sha,
        "lastModified": iso(repo.commit_at("main").date),
        "createdAt": iso(repo.created),
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [f"region:{repo.region}"],
        "usedStorage": sum(file.size for file in commit.files.values()),
        "siblings": siblings,
    }
    return info | ({"modelId": repo.repo_id} if repo.repo_type == "model" else {})
