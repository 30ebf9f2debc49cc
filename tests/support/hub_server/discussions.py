"""Discussions and pull requests."""

from collections.abc import Sequence
from typing import Any

from tests.support.hub_server.replies import HubError, Reply, Request, json_reply
from tests.support.hub_server.repos import PullRequest, Repo
from tests.support.hub_server.state import Hub
from tests.support.hub_server.trees import iso


def discussions(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    """List, open; of one: its details, a merge, another status, a comment."""
    repo = hub.readable(request, key)
    if not rest:
        return _open(hub, request, repo) if request.method == "POST" else _list(request, repo)
    number = int(rest[0]) if rest[0].isdigit() else 0
    if number not in repo.pulls:
        raise HubError(404, "Discussion not found")
    pull = repo.pulls[number]
    if request.method == "GET":
        return json_reply(_details(repo, pull))
    _, account = hub.writable(request, key)
    match list(rest[1:]):
        case ["merge"]:
            repo.merge(number, account.name)
        case ["status"]:
            pull.status = str(request.json().get("status"))
        case ["comment"]:
            pass
        case _:
            raise HubError(404, "Not Found")
    return json_reply({"newMessage": _event(pull, "comment")})


def _open(hub: Hub, request: Request, repo: Repo) -> Reply:
    account = hub.account(request)
    if account is None:
        raise HubError(401, "Invalid username or password.")
    asked = request.json()
    title, description = str(asked.get("title")), str(asked.get("description"))
    pull = repo.open_pull_request(title, account.name, repo.branches["main"], description)
    if asked.get("pullRequest"):
        pull.status = "builder"
    else:
        pull.is_pull_request = False
        del repo.pull_heads[pull.num]
    url = f"{request.hub_url}/{repo.url_path}/discussions/{pull.num}"
    return json_reply({"num": pull.num, "pullRequest": pull.is_pull_request, "url": url})


def _list(request: Request, repo: Repo) -> Reply:
    found = sorted(repo.pulls.values(), key=lambda pull: -pull.num)
    if (wanted := request.query("type")) not in (None, "all"):
        found = [pull for pull in found if pull.is_pull_request == (wanted == "pull_request")]
    if (status := request.query("status")) not in (None, "all"):
        is_open = {"open", "builder"}
        found = [pull for pull in found if (pull.status in is_open) == (status == "open")]
    return json_reply(
        {"discussions": [_summary(repo, pull) for pull in found], "count": len(found), "start": 0}
    )


def _summary(repo: Repo, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.num,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": iso(pull.date),
        "status": pull.status,
        "isPullRequest": pull.is_pull_request,
        "repo": {"name": repo.repo_id, "type": repo.repo_type},
    }


def _details(repo: Repo, pull: PullRequest) -> dict[str, Any]:
    details = _summary(repo, pull) | {"events": [_event(pull, "comment")], "filesWithConflicts": []}
    if pull.is_pull_request:
        details["changes"] = {"base": "refs/heads/main"}
        if pull.merge_commit is not None:
            details["changes"]["mergeCommitId"] = pull.merge_commit
    return details


def _event(pull: PullRequest, event_type: str) -> dict[str, Any]:
    return {
        "id": f"{pull.num:024x}",
        "type": event_type,
        "createdAt": iso(pull.date),
        "author": {"name": pull.author},
        "data": {"edited": False, "hidden": False, "latest": {"raw": pull.description}},
    }
