"""Revisions of repositories on the Hub, and the commits that they name now."""

from typing import Literal

from huggingface_hub import HfApi, constants

from annotationrun_worker.errors import HubAccessError
from annotationrun_worker.hub.calls import ATTEMPTS, read_call
from annotationrun_worker.staging.digests import is_commit

RepoType = Literal["dataset", "model"]


def commit_named(
    api: HfApi,
    repo_type: RepoType,
    repo_id: str,
    revision: str,
    *,
    attempts: int = ATTEMPTS,
    timeout_seconds: float | None = None,
) -> str:
    """The SHA of the commit that ``revision`` (branch, tag or commit) of a repository names now.

    Nothing is asked for a whole SHA: whether there is such a commit shows when its files are listed.

    Args:
        api: with the Hub's address, and the token.
        repo_type: of the repository.
        repo_id: ``"owner/name"``.
        revision: to look up.
        attempts: tries at most.
        timeout_seconds: for the connection and for each silence of the Hub; ``None``: as for all requests.

    Raises:
        HubAccessError: there is no such repository or revision, or it may not be read.
        HubUnavailableError: the Hub does not answer.
    """
    if is_commit(revision):
        return revision
    what = f"reading {repo_type} {repo_id!r} at {revision!r}"
    info = read_call(
        what,
        lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision, timeout=timeout_seconds),
        attempts=attempts,
    )
    if info.sha is None or not is_commit(info.sha):
        raise HubAccessError(f"{what}: the Hub names the commit {info.sha!r}, expected a SHA-1; refused")
    return info.sha


def model_commit(
    model_id: str, revision: str, token: str | None, *, patience_seconds: float | None = None
) -> str:
    """The SHA of the commit that ``revision`` of a model names now.

    Args:
        model_id: its repository.
        revision: to look up.
        token: that may read it; ``None``: asked as anybody.
        patience_seconds: with a Hub that does not answer, in one try; ``None``: as for all requests.

    Raises:
        HubAccessError, HubUnavailableError: see ``commit_named``.
    """
    return commit_named(
        HfApi(token=token or False),  # False: huggingface_hub would else take any token that it finds
        "model",
        model_id,
        revision,
        attempts=ATTEMPTS if patience_seconds is None else 1,
        timeout_seconds=patience_seconds,
    )


def is_offline() -> bool:
    """Whether the environment variable HF_HUB_OFFLINE forbids to ask the Hub."""
    return constants.is_offline_mode()
