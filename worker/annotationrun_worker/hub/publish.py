"""A merged dataset pushed to the Hub: one commit, then the version tag.

Each attempt goes on from where the last one was stopped.
"""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from annotationrun_worker.errors import HubAccessError, OutputError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.hub.calls import output_call
from annotationrun_worker.hub.commit_plan import lacking_file
from annotationrun_worker.hub.history import (
    MadeCommit,
    lacks_repository,
    lacks_revision,
    read_history,
    shas_above,
)
from annotationrun_worker.hub.publication import DEFAULT_BRANCH, Publication, Published
from annotationrun_worker.hub.publish_journal import Intent, PublishJournal
from annotationrun_worker.hub.push import CommitPush, Pushed
from annotationrun_worker.hub.repository import REPO_TYPE, HubRepository
from annotationrun_worker.hub.tags import TagMove, is_version_tag, move_tag, read_tags
from annotationrun_worker.staging.store import StagingStore

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
