"""What a publish is about to do, staged before it is done, so that the next attempt can finish it.

``publishes/<digest of merge, repository and branch>.json`` exists while a publish is under way, and after
one that was interrupted.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

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
