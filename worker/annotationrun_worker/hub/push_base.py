"""What a push finds at its target: earlier commits of ours, and the files that it may replace."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from annotationrun_worker.errors import OutputError
from annotationrun_worker.hub.card import updated_card
from annotationrun_worker.hub.commit_plan import (
    check_not_in_place,
    check_target,
    lacking_file,
    moved_file,
    otherwise_than_recorded,
)
from annotationrun_worker.hub.history import MadeCommit, newest_made, sha_below
from annotationrun_worker.hub.publication import CARD_NAME, RECORD_NAME, Publication
from annotationrun_worker.hub.repository import HubFile, HubRepository

_LOG = logging.getLogger(__name__)

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
            _LOG.warning(
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
