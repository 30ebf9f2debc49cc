"""Pull requests of ours that are open."""

from collections.abc import Callable
from dataclasses import dataclass

from annotationrun_worker.hub.calls import output_call
from annotationrun_worker.hub.commit_message import commit_title
from annotationrun_worker.hub.history import commit_of, read_history, sha_below
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository


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
