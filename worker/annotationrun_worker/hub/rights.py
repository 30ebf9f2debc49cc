"""Whether the token may publish the output, asked before anything is spent; nothing is written on the Hub.

``GET /api/datasets/NAME/auth-check/write`` says of a repository that is there whether the token may write to
it. ``GET /api/whoami-v2`` says what the token is: its role, its owner's organizations, and of a fine-grained
one what it may do where. That decides of a repository that is still to be made, and of pull requests. What
the Hub doesn't tell is left to the push: a mirror may know neither, and the second may be asked rarely.
"""

import threading
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, TypeVar

from huggingface_hub.errors import HfHubHTTPError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annotationrun_worker.errors import HubAccessError, HubUnavailableError
from annotationrun_worker.hub.client import hub_call, status_of
from annotationrun_worker.hub.history import lacks_repository, lacks_revision
from annotationrun_worker.hub.publication import DEFAULT_BRANCH, HubTarget
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository

WRITE: Final = "repo.write"
PROPOSE: Final = "discussion.write"
"""Permissions of fine-grained tokens: to write into repositories and make them, and to open pull requests."""
_TO_WRITE: Final = (
    "one that may write to it: with the role write, of a user who may write there, or a fine-grained one "
    f"with {WRITE} on it"
)
_TO_PROPOSE: Final = (
    f"one that may open pull requests: with the role write, or a fine-grained one with {PROPOSE}"
)
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_MEMBERS_THAT_READ: Final = frozenset({"read", "no_access"})
_SHOWN_SCOPES: Final = 5

Answer = TypeVar("Answer")


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class _Entity(_Told):
    type: str = ""
    name: str = ""


class _Scope(_Told):
    entity: _Entity = _Entity()
    permissions: tuple[str, ...] = ()


class _FineGrained(_Told):
    everywhere: tuple[str, ...] = Field(default=(), alias="global")
    scoped: tuple[_Scope, ...] = ()


class _AccessToken(_Told):
    role: str = ""
    fine_grained: _FineGrained | None = Field(default=None, alias="fineGrained")


class _Auth(_Told):
    access_token: _AccessToken | None = Field(default=None, alias="accessToken")


class _Organization(_Told):
    name: str
    role: str = Field(default="", alias="roleInOrg")


class TokenOwner(_Told):
    """What ``whoami-v2`` tells of a token; fields that are not needed here are left out."""

    name: str
    type: str = ""
    organizations: tuple[_Organization, ...] = Field(default=(), alias="orgs")
    auth: _Auth = _Auth()

    @property
    def token(self) -> _AccessToken:
        """The token; of a login by other means nothing is known."""
        return self.auth.access_token or _AccessToken()

    def text(self) -> str:
        """What the token may do, in words; the token itself is no part of it."""
        if self.token.role == "read":
            return f"is one of {self.name!r} that may only read"
        if self.token.role == "fineGrained" and self.token.fine_grained is not None:
            return f"is a fine-grained one of {self.name!r} that may {_scopes_text(self.token.fine_grained)}"
        organizations = ", ".join(repr(found.name) for found in self.organizations)
        member = f", a member of {organizations}" if organizations else ""
        return f"is one of {self.name!r}{member}, who may not do that"


class _Access(Enum):
    """What the Hub says of writing to a repository."""

    GIVEN = auto()
    REFUSED = auto()
    NO_REPOSITORY = auto()
    """There is none, or none that the token may see."""
    NOT_TOLD = auto()


def check_rights(repository: HubRepository, target: HubTarget) -> None:
    """See whether the token may publish to ``target``; where the Hub doesn't tell, nothing is said.

    Raises:
        HubAccessError: it may not, or there is none; or the Hub can't be reached as things are set.
    """
    if not repository.api.token:
        raise _refusal(repository, "is missing", _TO_WRITE)
    access = _access(repository)
    if access is _Access.GIVEN:
        return
    owner = _owner(repository)
    if access is _Access.NO_REPOSITORY:
        lacking = None if owner is None else _lacking_to_create(repository, owner)
    elif access is _Access.REFUSED and not _is_proposal(repository, target):
        lacking = _TO_WRITE
    else:
        lacking = None if owner is None else _lacking_of(access, owner)
    if lacking is not None:
        raise _refusal(repository, "may not do that" if owner is None else owner.text(), lacking)


def _access(repository: HubRepository) -> _Access:
    """What the Hub says of writing to the repository.

    Raises:
        HubAccessError: it can't be reached as things are set.
    """
    try:
        _once(
            f"asking for the right to write to dataset {repository.repo_id!r}",
            lambda: repository.api.auth_check(repository.repo_id, repo_type=REPO_TYPE, write=True),
        )
    except HubAccessError as error:
        if lacks_repository(error):
            return _Access.NO_REPOSITORY
        if _status(error) in {_UNAUTHORIZED, _FORBIDDEN}:
            return _Access.REFUSED
        raise
    except (HubUnavailableError, HfHubHTTPError):
        return _Access.NOT_TOLD
    return _Access.GIVEN


def _owner(repository: HubRepository) -> TokenOwner | None:
    """Whose token it is; ``None``: the Hub doesn't tell.

    Raises:
        HubAccessError: nobody's.
    """
    try:
        return TokenOwner.model_validate(_once("asking whose token it is", repository.api.whoami))
    except HubAccessError as error:
        if _status(error) == _UNAUTHORIZED:
            raise _refusal(repository, "is not known to the Hub", _TO_WRITE) from error
        return None
    except (HubUnavailableError, HfHubHTTPError, ValidationError):
        return None


def _status(error: HubAccessError) -> int | None:
    return None if error.__cause__ is None else status_of(error.__cause__)


def _once(what: str, call: Callable[[], Answer]) -> Answer:
    """``hub_call`` without another try: the push will tell as well."""
    stopped = threading.Event()
    stopped.set()
    return hub_call(what, call, stopped)


def _is_proposal(repository: HubRepository, target: HubTarget) -> bool:
    """Whether a pull request will do; a branch that is not there is made, which needs the right to write."""
    return target.pull_request and _has_branch(repository, target.branch)


def _lacking_of(access: _Access, owner: TokenOwner) -> str | None:
    """What the token would have to be to open pull requests, or to write where the Hub doesn't tell."""
    if access is _Access.NOT_TOLD:
        return _TO_WRITE if owner.token.role == "read" else None
    return None if _may_propose(owner) else _TO_PROPOSE


def _lacking_to_create(repository: HubRepository, owner: TokenOwner) -> str | None:
    """What the token would have to be to make the repository; ``None``: it may, as far as is known."""
    namespace = repository.repo_id.rpartition("/")[0] or owner.name
    if _may_create_in(namespace, owner):
        return None
    return (
        f"one that may create repositories in the namespace {namespace!r}, as it sees no such repository: "
        "with the role write, of a user who may write there, or a fine-grained one with "
        f"{WRITE} on {namespace!r}"
    )


def _has_branch(repository: HubRepository, branch: str) -> bool:
    """Whether the branch is there, or the Hub doesn't tell."""
    if branch == DEFAULT_BRANCH:
        return True
    api, repo_id = repository.api, repository.repo_id
    try:
        _once(
            f"reading dataset {repo_id!r} at {branch!r}",
            lambda: api.repo_info(repo_id, repo_type=REPO_TYPE, revision=branch),
        )
    except HubAccessError as error:
        return not lacks_revision(error)
    except (HubUnavailableError, HfHubHTTPError):
        return True
    return True


def _may_create_in(namespace: str, owner: TokenOwner) -> bool:
    """Whether repositories can be made in the namespace, as far as is known."""
    token = owner.token
    if token.role == "read":
        return False
    if token.role == "fineGrained" and token.fine_grained is not None:
        return any(
            WRITE in scope.permissions
            and (scope.entity.name == namespace or scope.entity.type not in {"user", "org", *_KINDS})
            for scope in token.fine_grained.scoped
        )
    if token.role != "write" or owner.type != "user":
        return True  # nothing is known of such tokens
    if namespace == owner.name:
        return True
    roles = {found.name: found.role for found in owner.organizations}
    return roles.get(namespace, "no_access") not in _MEMBERS_THAT_READ


_KINDS: Final = frozenset({"dataset", "model", "space"})
"""Entities of which a token is for that one alone."""


def _may_propose(owner: TokenOwner) -> bool:
    """Whether pull requests can be opened, as far as is known."""
    token = owner.token
    if token.role == "fineGrained" and token.fine_grained is not None:
        scopes = token.fine_grained
        given = {*scopes.everywhere, *(name for scope in scopes.scoped for name in scope.permissions)}
        return bool(given & {WRITE, PROPOSE})
    return token.role != "read"


def _scopes_text(scopes: _FineGrained) -> str:
    """``repo.content.read on dataset 'me/x'; discussion.write everywhere``."""
    texts = [
        f"{', '.join(scope.permissions) or 'nothing'} on {scope.entity.type} {scope.entity.name!r}"
        for scope in scopes.scoped
    ]
    texts += [f"{', '.join(scopes.everywhere)} everywhere"] if scopes.everywhere else []
    more = len(texts) - _SHOWN_SCOPES
    shown = texts[:_SHOWN_SCOPES] + ([f"and {more} more"] if more > 0 else [])
    return "; ".join(shown) or "do nothing"


def _refusal(repository: HubRepository, may: str, needed: str) -> HubAccessError:
    return HubAccessError(
        f"the output, dataset {repository.repo_id!r}, can't be pushed: the token {may}; expected "
        f"{needed}. The model was not asked anything yet. Give such a token (HF_TOKEN, or 'hf auth login'), "
        "or name another repository in spec.output.repoID"
    )
