"""One commit for one merge, whatever fails on the way.

``create_commit`` is not idempotent, and its answer may be lost: so each try first reads the history for the
trailer of this merge, and each commit names the parent that it was planned on, so that of two the Hub refuses
the second.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from huggingface_hub.errors import FileDuplicationError, HfHubHTTPError

from annotationrun_worker.errors import HubUnavailableError, OutputError, OutputMovedError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.hub import calls
from annotationrun_worker.hub.calls import hub_call, is_transient, short, status_of
from annotationrun_worker.hub.card import updated_card
from annotationrun_worker.hub.commit_message import commit_body, commit_title
from annotationrun_worker.hub.commit_plan import CommitPlan, check_target, moved_file, plan_commit
from annotationrun_worker.hub.contents import CommitContents, ReadyOperations
from annotationrun_worker.hub.history import MadeCommit, commit_of, read_history, sha_below
from annotationrun_worker.hub.publication import CARD_NAME, Publication
from annotationrun_worker.hub.pull_requests import find_request
from annotationrun_worker.hub.repository import REPO_TYPE, HubFile, HubRepository

_LOG = logging.getLogger(__name__)

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
        self._folder = folder
        self._before_commit = before_commit
        source = publication.source
        self._contents = CommitContents(repository, publication.target, source, folder)
        self._source_files: Mapping[str, HubFile] = {} if source is None else source.files
        self._is_same_repository = source is not None and source.repository.repo_id == repository.repo_id
        self._base: Mapping[str, HubFile] | None = self._source_files if publication.is_in_place else None
        self._listed: dict[str, Mapping[str, HubFile]] = {}
        self._sent: ReadyOperations | None = None
        self._history: Sequence[MadeCommit] | None = None

    @property
    def _what(self) -> str:
        return (
            f"publishing to dataset {self._repository.repo_id!r}, branch {self._publication.target.branch!r}"
        )

    def push(self, history: Sequence[MadeCommit]) -> Pushed:
        """Make the commit, or find the one that was made.

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
                _LOG.warning("%s: somebody else commits at the same time; trying again", self._what)
                calls.sleep(_CONFLICT_WAIT_SECONDS)
        raise HubUnavailableError(
            f"{self._what}: somebody else was faster {_CONFLICTS} times; run again when the branch is quiet"
        )

    def _try(self) -> Pushed:
        target = self._publication.target
        history = self._history or read_history(self._repository, target.branch)
        self._history = None  # the next try looks again
        place = commit_of(history, self._publication.merge_digest)
        if place is not None:
            newer = tuple(commit.sha for commit in history[:place])
            return self._pushed(history[place].sha, sha_below(history, place), newer=newer)
        if target.pull_request:
            request = find_request(self._repository, self._publication.merge_digest)
            if request is not None:
                return self._pushed(request.commit, request.previous_commit, pull_request=request.url)
        return self._commit(history[0].sha)

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

    def _commit(self, head: str) -> Pushed:
        plan = self._plan(head)
        card = self._card(head)
        while True:
            ready = self._contents.prepare(plan, card)
            self._before_commit()
            reached(FaultPoint.BEFORE_HUB_COMMIT)
            self._sent = ready
            try:
                commit, pull_request = self._send(ready, head)
            except (HfHubHTTPError, FileDuplicationError, ValueError) as error:
                if self._contents.note_refusal(plan, error):
                    _LOG.warning(
                        "%s: the Hub can't copy from the source; streaming: %s", self._what, short(error)
                    )
                    continue
                if isinstance(error, HfHubHTTPError) or is_transient(error):
                    raise
                raise OutputError(f"{self._what}: the Hub refuses the commit: {short(error)}") from error
            reached(FaultPoint.AFTER_HUB_COMMIT)
            return self._pushed(commit, head, pull_request=pull_request)

    def _plan(self, head: str) -> CommitPlan:
        desired = self._publication.files
        present = self._files(head)
        if self._base is None:
            self._base = present
        moved = moved_file(desired, self._base, present)
        if moved is not None:
            raise OutputMovedError(
                f"{self._what}: somebody else changed {moved!r} meanwhile (the branch is at {head} now); run "
                "again: a new plan takes their change in"
            )
        if not self._publication.is_in_place:
            check_target(desired, present, self._source_files if self._is_same_repository else None)
        return plan_commit(desired, present, self._source_files, is_in_place=self._publication.is_in_place)

    def _files(self, commit: str) -> Mapping[str, HubFile]:
        if commit not in self._listed:
            self._listed[commit] = self._repository.files(commit)
        return self._listed[commit]

    def _card(self, head: str) -> bytes:
        """The target's card, else the source's, with our section."""
        card = self._files(head).get(CARD_NAME)
        repository, commit = self._repository, head
        source = self._publication.source
        if card is None and source is not None:
            card = source.files.get(CARD_NAME)
            repository, commit = source.repository, source.commit
        content = None
        if card is not None:
            local = self._folder / "card"
            local.unlink(missing_ok=True)
            repository.download(card, commit, local)
            content = local.read_bytes()
        return updated_card(content, self._publication.merge_digest, self._publication.provenance)

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
