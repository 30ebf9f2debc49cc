"""Large files: Git LFS's batch API with uploads at once or in parts, and copies between repos.

github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md; the transfer in parts is the Hub's own, as its
client's ``lfs.py`` speaks it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from tests.support.hub_server.replies import HubError, Reply, Request, json_reply
from tests.support.hub_server.repos import Repo
from tests.support.hub_server.state import Hub


def lfs(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    if rest == ["batch"]:
        return _batch(hub, request, key)
    if rest == ["verify"]:
        return _verify(hub, request, key)
    raise HubError(404, "Not Found")


def _batch(hub: Hub, request: Request, key: str) -> Reply:
    asked = request.json()
    is_upload = asked.get("operation") == "upload"
    repo = hub.writable(request, key)[0] if is_upload else hub.opened(request, key)
    wanted = asked.get("objects")
    if not isinstance(wanted, list):
        raise HubError(422, "objects: not a list")
    line = _upload if is_upload else _download
    objects = [line(hub, request, repo, str(one["oid"]), int(one["size"])) for one in wanted]
    in_parts = any("chunk_size" in _upload_header(one) for one in objects)
    return json_reply(
        {"transfer": "multipart" if in_parts else "basic", "objects": objects, "hash_algo": "sha256"},
        {"Content-Type": "application/vnd.git-lfs+json"},
    )


def _upload_header(line: dict[str, Any]) -> dict[str, str]:
    header: dict[str, str] = line.get("actions", {}).get("upload", {}).get("header", {})
    return header


def _upload(hub: Hub, request: Request, repo: Repo, sha256: str, size: int) -> dict[str, Any]:
    line: dict[str, Any] = {"oid": sha256, "size": size, "authenticated": True}
    if sha256 in repo.large and sha256 not in repo.pending:
        return line  # without actions: it is there already
    path = f"/store/{repo.key}/{sha256}"
    verify = {"href": f"{request.hub_url}/{repo.url_path}.git/info/lfs/objects/verify"}
    limit, part_bytes = hub.settings.multipart_above_bytes, hub.settings.part_bytes
    if limit is None or size <= limit:
        upload: dict[str, Any] = {"href": hub.signed("PUT", request.cdn_url, path)}
    else:
        header = {"chunk_size": str(part_bytes)}
        for number in range(1, -(-size // part_bytes) + 1):
            header[str(number)] = hub.signed("PUT", request.cdn_url, f"{path}/{number}")
        complete = hub.signed("POST", request.hub_url, f"/complete/{repo.key}/{sha256}")
        upload = {"href": complete, "header": header}
    return line | {"actions": {"upload": upload, "verify": verify}}


def _download(hub: Hub, request: Request, repo: Repo, sha256: str, size: int) -> dict[str, Any]:
    if sha256 not in repo.large or sha256 in repo.pending:
        error = {"code": 404, "message": "Object does not exist"}
        return {"oid": sha256, "size": size, "error": error}
    href = hub.signed("GET", request.cdn_url, f"/cdn/{repo.key}/{sha256}/{sha256}")
    return {"oid": sha256, "size": size, "authenticated": True, "actions": {"download": {"href": href}}}


def _verify(hub: Hub, request: Request, key: str) -> Reply:
    repo, _ = hub.writable(request, key)
    asked = request.json()
    content = repo.large.get(str(asked.get("oid")))
    if content is None or len(content) != asked.get("size"):
        raise HubError(404, "Object not found, or of another size")
    return json_reply({"success": True})


def store(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """An upload into the object store: a file, or a numbered part of one."""
    hub.check_signature(request)
    sha256 = rest[0]
    hub.counters.receive(key, f"lfs:{sha256}", len(request.body))
    if len(rest) == 1:
        _keep(hub, hub.repos[key], sha256, request.body)
    else:
        hub.parts[key, sha256, int(rest[1])] = request.body
    return Reply(200, b"", {"ETag": _etag(request.body)})


def complete(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """All parts are there: make the file of them."""
    hub.check_signature(request)
    sha256, asked = rest[0], request.json().get("parts")
    if not isinstance(asked, list):
        raise HubError(400, "parts: not a list")
    contents = []
    for part in asked:
        content = hub.parts.get((key, sha256, int(part["partNumber"])))
        if content is None or _etag(content) != part["etag"]:
            raise HubError(400, f"InvalidPart: {part['partNumber']}")
        contents.append(content)
    _keep(hub, hub.repos[key], sha256, b"".join(contents))
    for name in [name for name in hub.parts if name[:2] == (key, sha256)]:
        del hub.parts[name]
    return json_reply({"success": True})


def _keep(hub: Hub, repo: Repo, sha256: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise HubError(400, "XAmzContentSHA256Mismatch: the content is not what its name says")
    if sha256 not in repo.large and not hub.settings.uploads_have_xet_hash:
        repo.without_xet.add(sha256)
    repo.large[sha256] = content
    repo.pending.discard(sha256)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def lfs_files(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """``lfs-files/duplicate``: put large files of this repo into another one, without their bytes moving."""
    if rest != ["duplicate"]:
        raise HubError(404, "Not Found")
    source = hub.opened(request, key)
    asked = request.json()
    named, wanted = asked.get("target"), asked.get("files")
    if not isinstance(named, dict) or not isinstance(wanted, list):
        raise HubError(400, "target, files: missing")
    target, _ = hub.writable(request, f"{named['type']}s/{named['name']}")
    succeeded, failed = [], []
    for one in wanted:
        sha256 = str(one["sha256"])
        if source.region != target.region:
            failed.append({"sha256": sha256, "error": "Source and target are in different storage regions"})
        elif sha256 not in source.large or sha256 in source.pending | source.without_xet:
            failed.append({"sha256": sha256, "error": "File not found"})
        else:
            target.large[sha256] = source.large[sha256]
            target.pending.discard(sha256)
            succeeded.append({"sha256": sha256})
    return json_reply({"success": succeeded, "failed": failed})
