"""Endpoints that make, copy, move and delete whole repos, and the check of a card's header."""

from collections.abc import Sequence

from tests.support.hub_server.replies import HubError, Reply, Request, json_reply, repo_not_found
from tests.support.hub_server.repos import RepoType
from tests.support.hub_server.state import Hub


def repositories(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    match (request.method, *rest):
        case ("POST", "create"):
            return _create(hub, request)
        case ("DELETE", "delete"):
            return _delete(hub, request)
        case ("POST", "move"):
            return _move(hub, request)
        case _:
            raise HubError(404, "Not Found")


def _repo_type(asked: object) -> RepoType:
    if asked not in ("dataset", "model", None):
        raise HubError(400, f"type {asked!r}: this server has datasets and models")
    return "dataset" if asked == "dataset" else "model"


def _named(hub: Hub, request: Request, asked: dict[str, object]) -> tuple[RepoType, str]:
    account = hub.account(request)
    if account is None:
        raise HubError(401, "Invalid username or password.")
    namespace = str(asked.get("organization") or account.name)
    hub.owner(request, namespace)
    return _repo_type(asked.get("type")), f"{namespace}/{asked.get('name')}"


def _create(hub: Hub, request: Request) -> Reply:
    asked = request.json()
    repo_type, repo_id = _named(hub, request, asked)
    key = f"{repo_type}s/{repo_id}"
    if key in hub.repos:
        # The client reads the address out of a 409 too, where it was told `exist_ok`.
        url = f"{request.hub_url}/{hub.repos[key].url_path}"
        message = f"You already created this {repo_type} repo: {repo_id}"
        return json_reply({"error": message, "url": url}, {"X-Error-Message": message}, 409)
    repo = hub.new_repo(repo_type, repo_id, repo_id.partition("/")[0])
    repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo.region = str(asked.get("region") or repo.region)
    url = f"{request.hub_url}/{repo.url_path}"
    return json_reply({"url": url, "name": repo_id, "id": repo_id})


def _delete(hub: Hub, request: Request) -> Reply:
    repo_type, repo_id = _named(hub, request, request.json())
    if hub.repos.pop(f"{repo_type}s/{repo_id}", None) is None:
        raise repo_not_found()
    return json_reply({})


def _move(hub: Hub, request: Request) -> Reply:
    asked = request.json()
    repo_type, target = _repo_type(asked.get("type")), str(asked.get("toRepo"))
    repo, _ = hub.writable(request, f"{repo_type}s/{asked.get('fromRepo')}")
    hub.owner(request, target.partition("/")[0])
    if f"{repo_type}s/{target}" in hub.repos:
        raise HubError(409, f"This repo exists already: {target}")
    del hub.repos[repo.key]
    repo.repo_id = target
    hub.repos[repo.key] = repo
    return json_reply({})


def duplicate(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """A new repo with the files of this one's main, in one commit."""
    source = hub.opened(request, key)
    asked = request.json()
    repo_id = str(asked.get("repository"))
    account = hub.owner(request, repo_id.partition("/")[0])
    target_key = f"{source.repo_type}s/{repo_id}"
    if target_key in hub.repos:
        url = f"{request.hub_url}/{hub.repos[target_key].url_path}"
        message = f"This repo exists already: {repo_id}"
        return json_reply({"error": message, "url": url}, {"X-Error-Message": message}, 409)
    repo = hub.new_repo(source.repo_type, repo_id, account.name)
    repo.private, repo.region = asked.get("visibility") == "private", source.region
    first = repo.commit_at("main")
    title = f"Duplicate from {source.repo_id}"
    made = repo.make_commit(first.sha, source.commit_at("main").files, title, "", account.name)
    repo.branches["main"] = made.sha
    repo.without_xet = source.without_xet & repo.large.keys()
    if hub.settings.copies_are_pending:
        repo.pending = set(repo.large)
    url = f"{request.hub_url}/{repo.url_path}"
    return json_reply({"url": url, "filesCopyPending": bool(repo.pending)})


def settings(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    repo, _ = hub.writable(request, key)
    asked = request.json()
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    match asked.get("gated", repo.gated):
        case "auto":
            repo.gated = "auto"
        case "manual":
            repo.gated = "manual"
        case _:
            repo.gated = False
    return json_reply({"private": repo.private, "gated": repo.gated})


def validate_yaml(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """Whether a card has a header; what is in it is not looked at."""
    content = str(request.json().get("content") or "")
    if not content.startswith("---\n"):
        message = "empty or missing yaml metadata in repo card"
        return json_reply({"errors": [], "warnings": [{"message": message}]})
    if "\n---\n" not in content + "\n":
        message = "the yaml metadata of the repo card has no end"
        return json_reply({"errors": [{"message": message}], "warnings": []}, status=400)
    return json_reply({"errors": [], "warnings": []})
