"""What revisions of models were resolved to last: ``models/<digest>.json``, one for each model and revision.

A run that can't ask the Hub goes on with it: its results have the keys that they had when the Hub was there.
"""

from typing import Final

from annotationrun_worker.errors import StagingError
from annotationrun_worker.staging.digests import canonical_json, digest_json, is_commit
from annotationrun_worker.staging.once import decoded, parse_object
from annotationrun_worker.staging.store import StagingStore

_FORMAT: Final = 1


def stage_model_commit(store: StagingStore, model_id: str, revision: str, commit: str) -> None:
    """Note that ``revision`` of the model named ``commit`` (SHA-1) just now, over what was noted before.

    Raises:
        StorageError: the store can't be written.
    """
    value = {"format": _FORMAT, "model": model_id, "revision": revision, "commit": commit}
    store.put_now(_path(model_id, revision), canonical_json(value))


def read_model_commit(store: StagingStore, model_id: str, revision: str) -> str | None:
    """The commit that was noted last; ``None``: none that can be read was, or by another version.

    Raises:
        StorageError: the store can't be read.
    """
    path = _path(model_id, revision)
    return decoded(store, path, store.read_now(path), decode_model_commit)


def decode_model_commit(content: bytes) -> str | None:
    """Read staged bytes; ``None``: of another version, or no commit.

    Raises:
        StagingError: they are cut, or no such note.
    """
    try:
        value = parse_object(content)
        if value["format"] != _FORMAT:
            return None
        commit = str(value["commit"])
    except (ValueError, KeyError, TypeError) as error:
        raise StagingError(f"no note of a model: {error!r}") from error
    return commit if is_commit(commit) else None


def _path(model_id: str, revision: str) -> str:
    return f"models/{digest_json({'model': model_id, 'revision': revision})}.json"
