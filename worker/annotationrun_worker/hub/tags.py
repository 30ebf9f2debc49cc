"""The tag by which LeRobot finds a dataset's revision, moved to a new commit.

LeRobot loads a repository at the tag (or branch) of its codebase version, ``v3.0``; without that, at the
highest one of the same major and no higher minor version; without any, not at all (``get_safe_version`` in
lerobot/datasets/utils.py). The Hub can't move a tag: creating one that exists answers 409. So it is deleted
and created, and between the two ``v3.0`` names nothing.

LeRobot never meets that gap: a second tag, ``v3.0.dev0``, is created at the new commit before, and deleted
after. While ``v3.0`` is there the second one is not looked at (the exact version goes first, and a
``.dev0`` sorts below), so one that a killed process leaves behind does no harm. Who asks for ``v3.0`` by name
meets the gap; it is one request long, and measured.

What else would do:

- a branch ``v3.0`` for the time: then the name has two meanings, and a branch left behind would hide what
  others tag later, without a word;
- a forced push over Git's own protocol, which moves a tag in one step: another protocol, with other
  credentials, that mirrors and proxies of the Hub's API rarely speak.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from huggingface_hub.errors import RevisionNotFoundError

from annotationrun_worker.errors import HubAccessError, OutputError, OutputMovedError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.hub.calls import output_call, status_of
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository

_VERSION: Final = re.compile(r"v[0-9]{1,9}\.[0-9]{1,9}")
_ROUNDS: Final = 5
"""Others may create the tag while we move it; that they do so for ever is no accident."""


def is_version_tag(tag: str) -> bool:
    """Whether LeRobot could look for it: ``v3.0``."""
    return _VERSION.fullmatch(tag) is not None


def bridge_of(tag: str) -> str:
    """The tag that stands in for ``tag`` while that moves."""
    return f"{tag}.dev0"


@dataclass(frozen=True, slots=True)
class TagMove:
    """Where a tag has to be."""

    tag: str
    commit: str
    newer: Sequence[str] = ()
    """Commits above it: a tag at one of them is somebody else's, of a later publish, and stays."""

    def is_done(self, tags: Mapping[str, str]) -> bool:
        """Whether the tag is where it has to be, or further."""
        return tags.get(self.tag) in {self.commit, *self.newer}


def read_tags(repository: HubRepository) -> Mapping[str, str]:
    """The commit of each tag.

    Raises:
        HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
        OutputError: the Hub refuses.
    """
    refs = output_call(
        f"reading the tags of dataset {repository.repo_id!r}",
        lambda: repository.api.list_repo_refs(repository.repo_id, repo_type=REPO_TYPE),
    )
    return {tag.name: tag.target_commit for tag in refs.tags}


def move_tag(repository: HubRepository, move: TagMove) -> float:
    """Bring the tag to its commit, from whatever state an earlier attempt left it in.

    Returns:
        For how many seconds the tag itself named nothing, as seen from here.

    Raises:
        HubAccessError: the token may not write tags.
        HubUnavailableError: the Hub does not answer; the next attempt goes on from what is there.
        OutputMovedError: somebody else sets the tag again and again.
        OutputError: the Hub refuses.
    """
    gap_seconds = 0.0
    bridge = bridge_of(move.tag)
    for _ in range(_ROUNDS):
        tags = read_tags(repository)
        if move.is_done(tags):
            if bridge in tags:
                _delete(repository, bridge)
            return gap_seconds
        if move.tag not in tags:
            _create(repository, move.tag, move.commit)
            continue
        if tags.get(bridge) != move.commit:
            if bridge in tags:
                _delete(repository, bridge)
            _create(repository, bridge, move.commit)
        began = time.monotonic()
        _delete(repository, move.tag)
        reached(FaultPoint.BETWEEN_TAGS)
        _create(repository, move.tag, move.commit)
        gap_seconds += time.monotonic() - began
    raise OutputMovedError(
        f"the tag {move.tag!r} of dataset {repository.repo_id!r} was set {_ROUNDS} times by somebody else "
        f"while it was moved to {move.commit}; find out who, then run again"
    )


def _create(repository: HubRepository, tag: str, commit: str) -> None:
    """Create a tag; one that exists stays, wherever it is: the caller looks."""
    try:
        output_call(
            f"creating the tag {tag!r} of dataset {repository.repo_id!r}",
            lambda: repository.api.create_tag(
                repository.repo_id, tag=tag, revision=commit, repo_type=REPO_TYPE
            ),
        )
    except OutputError as error:
        if error.__cause__ is None or status_of(error.__cause__) != 409:
            raise


def _delete(repository: HubRepository, tag: str) -> None:
    """Delete a tag; it is well if there is none."""
    try:
        output_call(
            f"deleting the tag {tag!r} of dataset {repository.repo_id!r}",
            lambda: repository.api.delete_tag(repository.repo_id, tag=tag, repo_type=REPO_TYPE),
        )
    except HubAccessError as error:
        if type(error.__cause__) is not RevisionNotFoundError:
            raise
