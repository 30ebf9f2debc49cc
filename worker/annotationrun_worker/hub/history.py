"""Commits and pull requests of ours on the Hub.

The commits of a branch, and those among them that we made.

Pull requests of ours that are open.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from annotationrun_worker.errors import HubAccessError
from annotationrun_worker.hub.client import output_call
from annotationrun_worker.hub.publication import commit_title, digests_in
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository


@dataclass(frozen=True, slots=True)
class MadeCommit:
    """A commit, and what its message says of us."""

    sha: str
    merge_digests: tuple[str, ...]
    """Of its trailers; empty: it is not ours."""


def read_history(repository: HubRepository, revision: str) -> Sequence[MadeCommit]:
    """All commits of ``revision``, newest first.

    Raises:
        HubAccessError: there is no such repository or revision, or it may not be read.
        HubUnavailableError: the Hub does not answer.
        OutputError: it refuses.
    """
    found = output_call(
        f"reading the commits of dataset {repository.repo_id!r} at {revision!r}",
        lambda: repository.api.list_repo_commits(repository.repo_id, repo_type=REPO_TYPE, revision=revision),
    )
    return [MadeCommit(commit.commit_id, tuple(digests_in(commit.message))) for commit in found]


def newest_made(history: Sequence[MadeCommit]) -> int | None:
    """Where in ``history`` our newest commit stands; ``None``: none is ours."""
    return next((place for place, made in enumerate(history) if made.merge_digests), None)


def commit_of(history: Sequence[MadeCommit], merge_digest: str) -> int | None:
    """Where our newest commit stands if it is of this merge digest.

    ``None``: it was never made, or another merge was published since: then this one is made again.
    """
    place = newest_made(history)
    return place if place is not None and merge_digest in history[place].merge_digests else None


def commit_since(history: Sequence[MadeCommit], head: str, merge_digest: str) -> int | None:
    """Where above the commit ``head`` the one of this merge digest stands; others may be above it."""
    for place, made in enumerate(history):
        if made.sha == head:
            return None
        if merge_digest in made.merge_digests:
            return place
    return None


def shas_above(history: Sequence[MadeCommit], commit: str) -> tuple[str, ...]:
    """The commits above ``commit``; none where it is not in ``history``."""
    shas = [made.sha for made in history]
    return tuple(shas[: shas.index(commit)]) if commit in shas else ()


def sha_below(history: Sequence[MadeCommit], place: int) -> str:
    """The commit before the one at ``place``; empty for the first."""
    return history[place + 1].sha if place + 1 < len(history) else ""


def lacks_repository(error: HubAccessError) -> bool:
    """Whether there is no such repository, or none that the token may see."""
    return type(error.__cause__) is RepositoryNotFoundError


def lacks_revision(error: HubAccessError) -> bool:
    """Whether the repository is there, and the branch is not."""
    return type(error.__cause__) is RevisionNotFoundError


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A pull request that holds the commit of a merge."""

    url: str
    commit: str
    previous_commit: str


def find_request(
    repository: HubRepository, merge_digest: str, is_whole: Callable[[str], bool]
) -> OpenRequest | None:
    """The open pull request of this merge: known by title and by the trailer in its commits.

    Args:
        repository: that it asks to change.
        merge_digest: of the merge.
        is_whole: tells of a commit whether it holds the merge; a request whose commit does not is passed by.

    Raises:
        HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
        OutputError: the Hub refuses.
    """
    title = commit_title(merge_digest)
    found = output_call(
        f"reading the pull requests of dataset {repository.repo_id!r}",
        lambda: list(
            repository.api.get_repo_discussions(
                repository.repo_id,
                repo_type=REPO_TYPE,
                discussion_type="pull_request",
                discussion_status="open",
            )
        ),
    )
    for request in sorted(found, key=lambda request: request.num):
        if title not in request.title:
            continue
        history = read_history(repository, f"refs/pr/{request.num}")
        place = commit_of(history, merge_digest)
        if place is not None and is_whole(history[place].sha):
            return OpenRequest(request.url, history[place].sha, sha_below(history, place))
    return None
