"""Endpoints that change nothing: infos, refs, listings, commits, files."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from tests.support.hub_server.replies import (
    HubError,
    Reply,
    Request,
    content_reply,
    entry_not_found,
    json_reply,
)
from tests.support.hub_server.repos import Repo
from tests.support.hub_server.state import Hub
from tests.support.hub_server.trees import entries_of, iso, listing, repo_info


def info(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo = hub.readable(request, key)
    commit = repo.commit_at(rest[0] if rest else "main")
    found = repo_info(repo, commit, request.is_set("blobs"))
    if wanted := request.queries("expand"):
        found = {name: value for name, value in found.items() if name in {"_id", "id", *wanted}}
    return json_reply(found)


def auth_check(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    if rest:
        hub.writable(request, key)
    else:
        hub.opened(request, key)
    return json_reply({})


def refs(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo = hub.readable(request, key)

    def lines(found: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": prefix + name, "targetCommit": sha} for name, sha in sorted(found.items())
        ]

    value = {
        "branches": lines(repo.branches, "refs/heads/"),
        "converts": [],
        "tags": lines(repo.tags, "refs/tags/"),
    }
    if request.is_set("include_prs"):
        heads = {str(number): sha for number, sha in repo.pull_heads.items()}
        value["pullRequests"] = lines(heads, "refs/pr/")
    return json_reply(value)


def tree(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo = hub.readable(request, key)
    commit = repo.commit_at(rest[0])
    folder = "/".join(rest[1:]).strip("/")
    entries = listing(repo, commit, folder, request.is_set("recursive"), request.is_set("expand"))
    if folder and not entries:
        raise entry_not_found(f'"{folder}" does not exist on "{rest[0]}"', commit.sha)
    size = min(int(request.query("limit") or 1000), hub.settings.page_entries)
    return _page(request, entries, size, "cursor", int(request.query("cursor") or 0))


def paths_info(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo = hub.readable(request, key)
    if "json" in request.headers.get("content-type", ""):
        asked = request.json()
        paths, expand = asked.get("paths"), bool(asked.get("expand"))
    else:
        form = parse_qs(request.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() == "true"
    if not isinstance(paths, list):
        raise HubError(400, "paths: not a list")
    if len(paths) > 1000:
        raise HubError(413, "too many parameters")
    return json_reply(entries_of(repo, repo.commit_at(rest[0]), paths, expand))


def commits(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo = hub.readable(request, key)
    lines = [
        {
            "id": commit.sha,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author, "avatar": ""}],
            "date": iso(commit.date),
        }
        for commit in repo.history(rest[0])
    ]
    size = min(int(request.query("limit") or 50), hub.settings.commits_per_page)
    return _page(request, lines, size, "p", int(request.query("p") or 0) * size)


def _page(request: Request, entries: list[dict[str, Any]], size: int, name: str, start: int) -> Reply:
    """One page, and where the next one is in ``Link`` (RFC 8288); `name` is "p" (pages) or "cursor"."""
    headers = {"X-Total-Count": str(len(entries))}
    if start + size < len(entries):
        follows = start // size + 1 if name == "p" else start + size
        query = parse_qs(urlsplit(request.target).query) | {name: [str(follows)]}
        link = f"{request.hub_url}{request.path}?{urlencode(query, doseq=True)}"
        headers["Link"] = f'<{link}>; rel="next"'
    return json_reply(entries[start : start + size], headers)


def resolve(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """A small file at once; of a large one, where it can be fetched and what it is."""
    repo = hub.opened(request, key)
    path = "/".join(rest[1:])
    commit, file = repo.file_at(rest[0], path)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.etag}"', "Content-Disposition": _named(path)}
    if not file.is_lfs:
        if request.headers.get("if-none-match") == f'"{file.etag}"':
            return Reply(304, b"", headers)
        return content_reply(file.content, request.headers.get("range"), headers, (key, path))
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.etag}"'}
    headers |= _xet_headers(request, repo, commit.sha, repo.xet_hash(file))
    headers["Location"] = hub.signed("GET", request.cdn_url, f"/cdn/{key}/{file.sha256}/{path}")
    return Reply(302, b"Found. Redirecting", headers)


def _xet_headers(request: Request, repo: Repo, sha: str, xet_hash: str | None) -> dict[str, str]:
    if xet_hash is None:
        return {}
    route = f"{request.hub_url}/api/{repo.key}/xet-read-token/{sha}"
    return {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route, "Link": f'<{route}>; rel="xet-auth"'}


def no_xet(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """A client that wants to speak Xet: there is no chunk store here, and silence would look like a fault."""
    raise HubError(501, "This server has no Xet storage: set HF_HUB_DISABLE_XET=1")


def fetch_large(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """The content of a large file, from the CDN, to whoever has the link."""
    hub.check_signature(request)
    repo = hub.repos.get(key)
    sha256, path = rest[0], "/".join(rest[1:])
    if repo is None or sha256 not in repo.large or sha256 in repo.pending:
        raise HubError(404, "NoSuchKey: The specified key does not exist.")
    headers = {"ETag": f'"{sha256}"', "Content-Disposition": _named(path)}
    return content_reply(repo.large[sha256], request.headers.get("range"), headers, (key, path))


def _named(path: str) -> str:
    name = path.rpartition("/")[2]
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"


def whoami(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    account = hub.account(request)
    if account is None:
        raise HubError(401, "Invalid username or password.")
    orgs = [
        {
            "type": "org",
            "name": name,
            "fullname": name,
            "roleInOrg": "read" if name in account.reads_only_in else "write",
        }
        for name in account.organizations
    ]
    access: dict[str, Any] = {"displayName": "test", "role": account.role}
    if account.scopes is not None:
        access["fineGrained"] = {
            "canReadGatedRepos": False,
            "global": list(account.global_permissions),
            "scoped": [
                {
                    "entity": {"_id": scope.name, "type": scope.kind, "name": scope.name},
                    "permissions": list(scope.permissions),
                }
                for scope in account.scopes
            ],
        }
    token = {"type": "access_token", "accessToken": access}
    value = {"type": "user", "id": account.name, "name": account.name, "fullname": account.name}
    return json_reply(value | {"orgs": orgs, "auth": token})
