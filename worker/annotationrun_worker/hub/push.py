"""One commit for one merge, on top of what is there.

What a push finds at its target: earlier commits of ours, and the files that it may replace.

One commit for one merge, whatever fails on the way.

``create_commit`` is not idempotent, and its answer may be lost: so each try first reads the history for the
trailer of this merge, and each commit names the parent that it was planned on, so that of two the Hub refuses
the second. Only our newest commit counts: who publishes A, then B, then A again wants A.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub.errors import FileDuplicationError, HfHubHTTPError

from annotationrun_worker.errors import HubUnavailableError, OutputError, OutputMovedError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.hub import client as calls
from annotationrun_worker.hub.card import updated_card
from annotationrun_worker.hub.client import hub_call, is_transient, short, status_of
from annotationrun_worker.hub.commit import (
    CommitContents,
    CommitPlan,
    ReadyOperations,
    check_not_in_place,
    check_target,
    lacking_file,
    moved_file,
    otherwise_than_recorded,
    plan_commit,
)
from annotationrun_worker.hub.history import (
    MadeCommit,
    commit_of,
    commit_since,
    find_request,
    newest_made,
    read_history,
    sha_below,
)
from annotationrun_worker.hub.publication import (
    CARD_NAME,
    RECORD_NAME,
    Publication,
    commit_body,
    commit_title,
)
from annotationrun_worker.hub.repository import REPO_TYPE, HubFile, HubRepository

logger = logging.getLogger(__name__)

_NO_FILES: Final[Mapping[str, HubFile]] = {}


class PushBase:
    """The target's commits, read as they are needed and once each."""

    def __init__(self, repository: HubRepository, publication: Publication, folder: Path) -> None:
        """Nothing is asked yet; ``folder`` takes one file at a time."""
        self._repository = repository
        self._publication = publication
        self._folder = folder
        source = publication.source
        self.source_files: Mapping[str, HubFile] = _NO_FILES if source is None else source.files
        self._is_same_repository = source is not None and source.repository.repo_id == repository.repo_id
        self._listed: dict[str, Mapping[str, HubFile]] = {}

    def files(self, commit: str) -> Mapping[str, HubFile]:
        """All files of the commit.

        Raises:
            HubAccessError, HubUnavailableError, DatasetError: see ``HubRepository.files``.
        """
        if commit not in self._listed:
            self._listed[commit] = self._repository.files(commit)
        return self._listed[commit]

    def is_whole(self, commit: str) -> bool:
        """Whether a commit with the trailer of this merge holds it.

        What the Hub left out makes it not so. Other bytes than those of now do not, as long as they are what
        the record in the commit says: the same merge, written by another version of a library.

        Raises:
            HubAccessError, HubUnavailableError, DatasetError: see ``HubRepository.download``.
            OutputError: the commit's record can't be read.
        """
        publication, present = self._publication, self.files(commit)
        lacking = lacking_file(publication.files, self.source_files, present)
        if lacking is None:
            return True
        record = self._record(commit)
        if record.get("mergeDigest") == publication.merge_digest:
            lacking = otherwise_than_recorded(record.get("files"), present)
        if lacking is not None:
            logger.warning(
                "dataset %r: the commit %s of this merge lacks %r, or has it otherwise; it is made again",
                self._repository.repo_id, commit, lacking,
            )  # fmt: skip
        return lacking is None

    def base(self, history: Sequence[MadeCommit], incomplete: int | None) -> Mapping[str, HubFile]:
        """The files that the target may be taken to hold: what differs from them, others have pushed.

        In place that is what the merge read. Else it is our newest commit on the branch, or where it began.
        What it was before that commit counts too, and so does another merge, whole as its record says:
        somebody rolled back, or took a pull request of ours in under a message of their own.

        Args:
            history: of the branch, with at least one commit.
            incomplete: place of a commit of this merge that is not whole.

        Raises:
            OutputError: the target holds somebody else's dataset, or one that was annotated in place.
            HubAccessError, HubUnavailableError, DatasetError: see ``HubRepository.download``.
        """
        if self._publication.is_in_place:
            return self._base_in_place(history, incomplete)
        head, ours = history[0].sha, newest_made(history)
        present = self.files(head)
        if self._begins_at_source(history, ours):
            return self.source_files
        record = self._record(head)
        check_not_in_place(record)
        if ours is None:
            source_files = self.source_files if self._is_same_repository else None
            check_target(self._publication.files, present, source_files, record.get("files"))
            return present
        for sha in (history[ours].sha, sha_below(history, ours)):
            if sha and moved_file(self._publication.files, self.files(sha), present) is None:
                return present
        is_another = record.get("mergeDigest") not in history[ours].merge_digests
        if is_another and otherwise_than_recorded(record.get("files"), present) is None:
            return present
        return self.files(history[ours].sha)

    def card(self, head: str) -> bytes:
        """The target's card, else the source's, with our section.

        Raises:
            OutputError: it is not UTF-8.
            HubAccessError, HubUnavailableError, DatasetError: see ``HubRepository.download``.
        """
        card = self.files(head).get(CARD_NAME)
        repository, commit = self._repository, head
        source = self._publication.source
        if card is None and source is not None:
            card = source.files.get(CARD_NAME)
            repository, commit = source.repository, source.commit
        local = self._publication.files.get(CARD_NAME)
        content = None
        if card is not None:
            content = self._content(repository, card, commit)
        elif local is not None and local.local is not None:
            content = local.local.read_bytes()
        return updated_card(content, self._publication.merge_digest, self._publication.provenance)

    def _base_in_place(self, history: Sequence[MadeCommit], incomplete: int | None) -> Mapping[str, HubFile]:
        """The source's files; or those of a commit of ours on top of it that did not take all."""
        if incomplete is None or self._is_as_source(history[0].sha):
            return self.source_files
        below = sha_below(history, incomplete)
        if below and self._is_as_source(below):
            return self.files(history[incomplete].sha)
        return self.source_files

    def _is_as_source(self, commit: str) -> bool:
        return moved_file(self._publication.files, self.source_files, self.files(commit)) is None

    def _begins_at_source(self, history: Sequence[MadeCommit], ours: int | None) -> bool:
        """Whether the branch has no commit of ours but those that the source has too."""
        source = self._publication.source
        if source is None or not self._is_same_repository:
            return False
        newer = history if ours is None else history[: ours + 1]
        return any(made.sha == source.commit for made in newer)

    def _record(self, commit: str) -> Mapping[str, object]:
        """What ``meta/annotationrun.json`` says; empty where there is none."""
        file = self.files(commit).get(RECORD_NAME)
        if file is None:
            return {}
        try:
            value = json.loads(self._content(self._repository, file, commit))
        except (ValueError, RecursionError) as error:
            raise OutputError(
                f"{RECORD_NAME!r} in dataset {self._repository.repo_id!r} at {commit} is not what a merge "
                f"writes ({error}); name another output"
            ) from error
        return value if isinstance(value, dict) else {}

    def _content(self, repository: HubRepository, file: HubFile, commit: str) -> bytes:
        local = self._folder / "small"
        local.unlink(missing_ok=True)
        repository.download(file, commit, local)
        return local.read_bytes()


_CONFLICTS: Final = 8
_CONFLICT_WAIT_SECONDS: Final = 2.0
_CONFLICT: Final = frozenset({409, 412})
"""Another commit is being made; the branch is no longer at the parent."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """The commit of a merge."""

    commit: str
    previous_commit: str
    newer: tuple[str, ...] = ()
    """Commits of the branch above it."""
    pull_request: str = ""
    is_unchanged: bool = False
    """It had been made before this push."""
    uploaded_bytes: int = 0
    copied_files: int = 0
    notes: tuple[str, ...] = ()


class CommitPush:
    """The push of one publication to a branch that exists."""

    def __init__(
        self,
        repository: HubRepository,
        publication: Publication,
        folder: Path,
        before_commit: Callable[[], None],
    ) -> None:
        """Nothing is asked yet.

        Args:
            repository: with the branch.
            publication: to push.
            folder: empty; for one file at a time.
            before_commit: called before a commit is sent.
        """
        self._repository = repository
        self._publication = publication
        self._before_commit = before_commit
        self._contents = CommitContents(repository, publication.target, publication.source, folder)
        self._target = PushBase(repository, publication, folder)
        self._base: Mapping[str, HubFile] | None = None
        self._incomplete: int | None = None
        self._first_parent = ""
        self._sent: ReadyOperations | None = None
        self._history: Sequence[MadeCommit] | None = None

    @property
    def _what(self) -> str:
        return (
            f"publishing to dataset {self._repository.repo_id!r}, branch {self._publication.target.branch!r}"
        )

    def push(self, history: Sequence[MadeCommit]) -> Pushed:
        """Make the commit, or find the one that was made; one that is not whole gets another on top.

        Args:
            history: of the branch, as it is now.

        Raises:
            OutputMovedError: others pushed what the merge read or would overwrite.
            OutputError: the target holds somebody else's dataset, or the Hub refuses the commit.
            HubAccessError, HubUnavailableError: see ``HubRepository.resolve``.
            DatasetError, StorageError: see ``CommitContents.prepare``.
        """
        self._history = history
        for _ in range(_CONFLICTS):
            try:
                return hub_call(self._what, self._try)
            except HfHubHTTPError as error:
                if status_of(error) not in _CONFLICT:
                    raise OutputError(f"{self._what}: the Hub refuses the commit: {short(error)}") from error
                logger.warning("%s: somebody else commits at the same time; trying again", self._what)
                calls.sleep(_CONFLICT_WAIT_SECONDS)
        raise HubUnavailableError(
            f"{self._what}: somebody else was faster {_CONFLICTS} times; run again when the branch is quiet"
        )

    def _try(self) -> Pushed:
        target = self._publication.target
        history = self._history or read_history(self._repository, target.branch)
        self._history = None  # the next try looks again
        place = self._place_of_made(history)
        if place is not None:
            newer = tuple(commit.sha for commit in history[:place])
            return self._pushed(history[place].sha, sha_below(history, place), newer=newer)
        if target.pull_request:
            request = find_request(self._repository, self._publication.merge_digest, self._target.is_whole)
            if request is not None:
                return self._pushed(request.commit, request.previous_commit, pull_request=request.url)
        return self._commit(history)

    def _place_of_made(self, history: Sequence[MadeCommit]) -> int | None:
        digest = self._publication.merge_digest
        if self._sent is not None:  # the answer was lost; others may have published above it meanwhile
            place = commit_since(history, self._first_parent, digest)
            if place is not None:
                return place
        place = commit_of(history, digest)
        if place is None or self._target.is_whole(history[place].sha):
            return place
        self._incomplete = place
        return None

    def _pushed(
        self, commit: str, previous: str, newer: tuple[str, ...] = (), pull_request: str = ""
    ) -> Pushed:
        """What stands at the Hub, made by this push or by an earlier one."""
        sent = self._sent
        if sent is None:
            return Pushed(commit, previous, newer, pull_request, is_unchanged=True)
        notes = (
            ("videos were streamed through this machine: the Hub can't copy them here from the source",)
            if self._contents.is_streamed
            else ()
        )
        return Pushed(
            commit,
            previous,
            newer,
            pull_request,
            uploaded_bytes=sent.uploaded_bytes,
            copied_files=sent.copied_files,
            notes=notes,
        )

    def _commit(self, history: Sequence[MadeCommit]) -> Pushed:
        head = history[0].sha
        plan = self._plan(history)
        card = self._target.card(head)
        while True:
            ready = self._contents.prepare(plan, card)
            self._before_commit()
            reached(FaultPoint.BEFORE_HUB_COMMIT)
            self._sent = ready
            self._first_parent = self._first_parent or head
            try:
                commit, pull_request = self._send(ready, head)
            except (HfHubHTTPError, FileDuplicationError, ValueError) as error:
                if self._contents.note_refusal(plan, error):
                    logger.warning(
                        "%s: the Hub can't copy from the source; streaming: %s", self._what, short(error)
                    )
                    continue
                if isinstance(error, HfHubHTTPError) or is_transient(error):
                    raise
                raise OutputError(f"{self._what}: the Hub refuses the commit: {short(error)}") from error
            reached(FaultPoint.AFTER_HUB_COMMIT)
            return self._pushed(commit, head, pull_request=pull_request)

    def _plan(self, history: Sequence[MadeCommit]) -> CommitPlan:
        desired, is_in_place = self._publication.files, self._publication.is_in_place
        head = history[0].sha
        self._check_base(history)
        present = self._target.files(head)
        if self._base is None:
            self._base = self._target.base(history, self._incomplete)
        moved = moved_file(desired, self._base, present)
        if moved is not None:
            next_step = (
                "run again: a new plan takes their change in"
                if is_in_place
                else "it would be lost: revert it there, or name another output, then run again"
            )
            raise OutputMovedError(
                f"{self._what}: somebody else changed {moved!r} (the branch is at {head} now); {next_step}"
            )
        return plan_commit(desired, present, self._target.source_files, is_in_place=is_in_place)

    def _check_base(self, history: Sequence[MadeCommit]) -> None:
        """See that no other merge was published since the target's rows were read: its rows would be lost.

        Raises:
            OutputMovedError: one was.
        """
        base = self._publication.base_commit
        if base is None:
            return
        above = history[: next((n for n, made in enumerate(history) if made.sha == base), len(history))]
        others = [made.sha for made in above if set(made.merge_digests) - {self._publication.merge_digest}]
        if others:
            raise OutputMovedError(
                f"{self._what}: another run published {others[0]} meanwhile; run again, so that its rows "
                "are kept"
            )

    def _send(self, ready: ReadyOperations, head: str) -> tuple[str, str]:
        """SHA of the commit, and the URL of the pull request if one was asked for."""
        publication = self._publication
        made = self._repository.api.create_commit(
            self._repository.repo_id,
            ready.operations,
            repo_type=REPO_TYPE,
            revision=publication.target.branch,
            parent_commit=head,
            create_pr=publication.target.pull_request,
            commit_message=commit_title(publication.merge_digest),
            commit_description=commit_body(publication.merge_digest, publication.provenance),
        )
        return made.oid, made.pr_url or ""
