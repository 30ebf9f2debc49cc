"""Which endpoint a request is for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.hub_server import discussions, reading, repositories, transfers, writing
from tests.support.hub_server.replies import HubError, Reply, Request, error_reply
from tests.support.hub_server.state import Hub

Handler = Callable[[Hub, Request, str, Sequence[str]], Reply]
"""(hub, request, repo's key, the path's segments after the endpoint's name) -> reply."""

# (method, name in the path) -> (kind, handler); names of the kinds are what faults and counters go by.
_OF_A_REPO: dict[tuple[str, str], tuple[str, Handler]] = {
    ("GET", ""): ("info", reading.info),
    ("GET", "revision"): ("info", reading.info),
    ("GET", "auth-check"): ("auth_check", reading.auth_check),
    ("GET", "refs"): ("refs", reading.refs),
    ("GET", "tree"): ("tree", reading.tree),
    ("POST", "paths-info"): ("paths_info", reading.paths_info),
    ("GET", "commits"): ("commits", reading.commits),
    ("GET", "resolve"): ("resolve", reading.resolve),
    ("HEAD", "resolve"): ("resolve_head", reading.resolve),
    ("GET", "xet-read-token"): ("xet_token", reading.no_xet),
    ("GET", "xet-write-token"): ("xet_token", reading.no_xet),
    ("POST", "preupload"): ("preupload", writing.preupload),
    ("POST", "commit"): ("commit", writing.commit),
    ("POST", "branch"): ("branch_create", writing.branch),
    ("DELETE", "branch"): ("branch_delete", writing.branch),
    ("POST", "tag"): ("tag_create", writing.tag),
    ("DELETE", "tag"): ("tag_delete", writing.tag),
    ("POST", "lfs-files"): ("lfs_duplicate", transfers.lfs_files),
    ("POST", "duplicate"): ("repo_duplicate", repositories.duplicate),
    ("PUT", "settings"): ("repo_settings", repositories.settings),
    ("GET", "discussions"): ("discussions", discussions.discussions),
    ("POST", "discussions"): ("discussions_write", discussions.discussions),
}
_OTHERS: dict[tuple[str, str], tuple[str, Handler]] = {
    ("GET", "whoami-v2"): ("whoami", reading.whoami),
    ("POST", "validate-yaml"): ("validate_yaml", repositories.validate_yaml),
    ("POST", "repos"): ("repo_create", repositories.repositories),
    ("DELETE", "repos"): ("repo_delete", repositories.repositories),
}
_STORE: dict[tuple[str, str], tuple[str, Handler]] = {
    ("GET", "cdn"): ("cdn", reading.fetch_large),
    ("HEAD", "cdn"): ("cdn_head", reading.fetch_large),
    ("PUT", "store"): ("lfs_upload", transfers.store),
    ("POST", "complete"): ("lfs_complete", transfers.complete),
}
_PREFIXES = ("datasets", "models")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes."""

    kind: str
    handler: Handler
    key: str = ""
    rest: tuple[str, ...] = ()


def _unknown(hub: Hub, request: Request, key: str, rest: Sequence[str]) -> Reply:
    raise HubError(404, f"Not Found: this server does not know {request.method} {request.path}")


UNKNOWN = Endpoint("unknown", _unknown)


def endpoint_of(method: str, segments: tuple[str, ...]) -> Endpoint:
    match segments:
        case ("api", "repos", "move"):
            return Endpoint("repo_move", repositories.repositories, rest=("move",))
        case ("api", ("datasets" | "models") as prefix, owner, name, *rest):
            key = f"{prefix}/{owner}/{name}"
            return _found(_OF_A_REPO, method, rest[0] if rest else "", key, rest[1:])
        case ("api", name, *rest):
            return _found(_OTHERS, method, name, "", rest)
        case (("cdn" | "store" | "complete") as name, prefix, owner, repo, *rest) if prefix in _PREFIXES:
            return _found(_STORE, method, name, f"{prefix}/{owner}/{repo}", rest)
        case ("datasets", owner, name, *rest):
            return _beside_the_api(method, f"datasets/{owner}/{name}", rest)
        case (owner, name, *rest):
            return _beside_the_api(method, f"models/{owner}/{name}", rest)
        case _:
            return UNKNOWN


def _beside_the_api(method: str, key: str, rest: Sequence[str]) -> Endpoint:
    match list(rest):
        case ["resolve", *after]:
            return _found(_OF_A_REPO, method, "resolve", key, after)
        case ["info", "lfs", "objects", action] if method == "POST":
            return Endpoint(f"lfs_{action}", transfers.lfs, key.removesuffix(".git"), (action,))
        case _:
            return UNKNOWN


def _found(
    table: dict[tuple[str, str], tuple[str, Handler]], method: str, name: str, key: str, rest: Sequence[str]
) -> Endpoint:
    if (method, name) not in table:
        return UNKNOWN
    kind, handler = table[method, name]
    return Endpoint(kind, handler, key, tuple(rest))


def carry_out(hub: Hub, request: Request, endpoint: Endpoint) -> Reply:
    """The answer, errors included; alone at this moment."""
    try:
        with hub.lock:
            return endpoint.handler(hub, request, endpoint.key, list(endpoint.rest))
    except HubError as error:
        return error_reply(error)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return error_reply(HubError(400, f"The request is not as expected: {error!r}"))
