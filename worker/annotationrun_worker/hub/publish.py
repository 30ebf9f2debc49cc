"""A merged dataset published: a commit, then the version tag, and a note by which it is gone on with.

What a publish is about to do, staged before it is done, so that the next attempt can finish it.

``publishes/<digest of merge, repository and branch>.json`` exists while a publish is under way, and after
one that was interrupted.

The tag by which LeRobot finds a dataset's revision, moved to a new commit.

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

A merged dataset pushed to the Hub: one commit, then the version tag.

Each attempt goes on from where the last one was stopped.
"""

import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from huggingface_hub.errors import RevisionNotFoundError

from annotationrun_worker.errors import HubAccessError, OutputError, OutputMovedError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.hub.client import output_call, status_of
from annotationrun_worker.hub.commit import lacking_file
from annotationrun_worker.hub.history import (
    MadeCommit,
    lacks_repository,
    lacks_revision,
    read_history,
    shas_above,
)
from annotationrun_worker.hub.publication import DEFAULT_BRANCH, Publication, Published
from annotationrun_worker.hub.push import CommitPush, Pushed
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.once import parse_object, warn_unreadable
from annotationrun_worker.staging.store import StagingStore

_FOLDER: Final = "publishes"


@dataclass(frozen=True, slots=True)
class Intent:
    """A publish that has begun."""

    merge_digest: str
    repo_id: str
    branch: str
    tag: str
    commit: str = ""
    """To which the tag goes; empty as long as it is not made."""

    @property
    def path(self) -> str:
        """Where it is noted: the same merge may go to several places."""
        return f"{_FOLDER}/{digest_json([self.merge_digest, self.repo_id, self.branch])}.json"


class PublishJournal:
    """The intents in a staging store."""

    def __init__(self, store: StagingStore) -> None:
        """Nothing is read yet."""
        self._store = store

    def write(self, intent: Intent) -> None:
        """Note what is about to be done, over what was noted of the same publish.

        Raises:
            StorageError: the store can't be written.
        """
        self._store.put_now(intent.path, json.dumps(asdict(intent)).encode())

    def read(self, intent: Intent) -> Intent | None:
        """What was noted of this publish; ``None``: nothing, or it was finished.

        Of a note that can't be read it is known that the publish has begun, as ``intent`` says.

        Raises:
            StorageError: the store can't be read.
        """
        content = self._store.read_now(intent.path)
        if content is None:
            return None
        return self._parsed(intent.path, content, "the publish goes on") or intent

    def unfinished(self, repo_id: str) -> Iterator[Intent]:
        """All that is noted of this repository.

        Raises:
            StorageError: see ``read``.
        """
        for path in sorted(found.path for found in self._store.list_now(_FOLDER)):
            content = self._store.read_now(path)
            consequence = "look at the version tags of the output repositories, then delete it"
            intent = None if content is None else self._parsed(path, content, consequence)
            if intent is not None and intent.repo_id == repo_id:
                yield intent

    def finish(self, intent: Intent) -> None:
        """Nothing is left to do.

        Raises:
            StorageError: the store can't be written.
        """
        self._store.delete_now(intent.path)

    def _parsed(self, path: str, content: bytes, consequence: str) -> Intent | None:
        """The note in an object; ``None``: it is none, which the log says."""
        try:
            intent = Intent(**parse_object(content))
            if not all(isinstance(value, str) for value in asdict(intent).values()):
                raise TypeError("texts were expected")
            if intent.path != path:
                raise ValueError("its name is that of another note")
        except (ValueError, TypeError) as error:
            warn_unreadable(self._store, path, error, consequence)
            return None
        return intent


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


_LOG = logging.getLogger(__name__)


def publish(repository: HubRepository, publication: Publication, store: StagingStore) -> Published:
    """Push the dataset, and let the version tag name it; a merge that is published already is left alone.

    Interrupted anywhere, the next attempt finds what was done by the trailer in the commit's message and by
    the journal in ``store``, and goes on. Videos of a source in another repository are copied on the server
    (``CommitOperationCopy``, which is done when it answers; ``duplicate_repo`` would leave copies pending).

    Raises:
        OutputMovedError: others pushed what the merge read or would overwrite.
        OutputError: the target holds somebody else's dataset, the Hub refuses the commit, or did not take it
            whole.
        HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
        DatasetError: the source lacks a file.
        StorageError: the journal can't be read or written, or there is no room to stream.
    """
    target = publication.target
    journal = PublishJournal(store)
    intent = Intent(publication.merge_digest, repository.repo_id, target.branch, publication.version_tag)
    is_tagged = target.branch == DEFAULT_BRANCH and not target.pull_request
    _repair_others(repository, journal, intent)
    history = _history(repository, publication)
    with tempfile.TemporaryDirectory(prefix="annotationrun-publish-") as folder:

        def before_commit() -> None:
            if is_tagged:
                journal.write(intent)

        pushed = CommitPush(repository, publication, Path(folder), before_commit).push(history)
    if not pushed.is_unchanged:
        _check_whole(repository, publication, pushed.commit)
    notes = pushed.notes
    gap_seconds = 0.0
    if is_tagged:
        gap_seconds, tag_notes = _tag(repository, intent, pushed, journal)
        notes += tag_notes
    return Published(
        pushed.commit,
        pushed.previous_commit,
        pushed.pull_request,
        pushed.is_unchanged,
        pushed.uploaded_bytes,
        pushed.copied_files,
        gap_seconds,
        notes,
    )


def _repair_others(repository: HubRepository, journal: PublishJournal, own: Intent) -> None:
    """Create a version tag again that an interrupted publish of another merge left deleted.

    What has no commit yet moved no tag; and it may be under way just now. Others may write to the store too:
    a note is believed as far as the repository itself says that the commit is of that merge.
    """
    for intent in journal.unfinished(repository.repo_id):
        if intent.path == own.path or not intent.commit:
            continue
        if not _is_ours(repository, intent):
            _LOG.warning(
                "the staged object %r says that a publish to dataset %r was interrupted, but the commit that "
                "it names is none of that merge, or the tag no version; nothing is done for it: delete it if "
                "nobody needs it", intent.path, repository.repo_id,
            )  # fmt: skip
            continue
        if intent.tag not in read_tags(repository):
            _LOG.warning(
                "a publish to dataset %r was interrupted: creating its tag %r again at %s",
                repository.repo_id, intent.tag, intent.commit,
            )  # fmt: skip
            move_tag(repository, TagMove(intent.tag, intent.commit))
        journal.finish(intent)


def _is_ours(repository: HubRepository, intent: Intent) -> bool:
    """Whether the noted commit is on the noted branch and has the trailer of the noted merge."""
    if not is_version_tag(intent.tag):
        return False
    try:
        history = read_history(repository, intent.branch)
    except HubAccessError:
        return False  # there is no such branch
    made = next((made for made in history if made.sha == intent.commit), None)
    return made is not None and intent.merge_digest in made.merge_digests


def _history(repository: HubRepository, publication: Publication) -> Sequence[MadeCommit]:
    """The commits of the target's branch; it and the repository are made where they are missing."""
    try:
        return read_history(repository, publication.target.branch)
    except HubAccessError as error:
        if lacks_repository(error):
            _create_repository(repository, is_private=publication.target.private)
        elif not lacks_revision(error):
            raise
    if publication.target.branch != DEFAULT_BRANCH:
        _create_branch(repository, publication)
    return read_history(repository, publication.target.branch)


def _create_repository(repository: HubRepository, *, is_private: bool) -> None:
    output_call(
        f"making the dataset repository {repository.repo_id!r}",
        lambda: repository.api.create_repo(
            repository.repo_id,
            repo_type=REPO_TYPE,
            private=True if is_private else None,  # None: what the organization has as default
            exist_ok=True,
        ),
    )


def _create_branch(repository: HubRepository, publication: Publication) -> None:
    """From the source's commit if that is of the same repository; else empty, from the first commit."""
    source = publication.source
    if source is not None and source.repository.repo_id == repository.repo_id:
        start = source.commit
    else:
        start = read_history(repository, DEFAULT_BRANCH)[-1].sha
    output_call(
        f"making the branch {publication.target.branch!r} of dataset {repository.repo_id!r}",
        lambda: repository.api.create_branch(
            repository.repo_id,
            branch=publication.target.branch,
            revision=start,
            repo_type=REPO_TYPE,
            exist_ok=True,
        ),
    )


def _check_whole(repository: HubRepository, publication: Publication, commit: str) -> None:
    """The tag goes only to a commit that was read back."""
    source_files = {} if publication.source is None else publication.source.files
    lacking = lacking_file(publication.files, source_files, repository.files(commit))
    if lacking is not None:
        raise OutputError(
            f"dataset {repository.repo_id!r}: the commit {commit} lacks {lacking!r}, or has it otherwise; "
            "does a .gitignore there leave it out? Correct that, then run again: a commit on top completes it"
        )


def _tag(
    repository: HubRepository, own: Intent, pushed: Pushed, journal: PublishJournal
) -> tuple[float, tuple[str, ...]]:
    """Seconds without the tag, and notes.

    What was finished before is not done again: a tag that was moved since, say by a rollback, stays.
    """
    if pushed.is_unchanged and journal.read(own) is None:
        tags = read_tags(repository)
        if own.tag in tags:
            move = TagMove(own.tag, pushed.commit, pushed.newer)
            return 0.0, () if move.is_done(tags) else (_elsewhere(move, tags[own.tag]),)
    intent = replace(own, commit=pushed.commit)
    journal.write(intent)
    # Read again: a tag that somebody moved to a newer commit meanwhile is not moved back.
    newer = shas_above(read_history(repository, own.branch), pushed.commit)
    gap_seconds = move_tag(repository, TagMove(own.tag, pushed.commit, newer))
    reached(FaultPoint.AFTER_TAG)
    journal.finish(intent)
    return gap_seconds, ()


def _elsewhere(move: TagMove, commit: str) -> str:
    return (
        f"the tag {move.tag!r}, at which LeRobot loads, is at {commit} and was left there: this merge was "
        f"published before, as {move.commit}"
    )
