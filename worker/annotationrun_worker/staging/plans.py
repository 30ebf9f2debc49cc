"""Plans and merges, and the commits of models that they go by.

What a run set out to do, and what its merge took: ``plans/<digest>.json``, ``merges/<digest>.json``.

Both are named by the digest of their own content. What was found of a
source on the Hub is in ``surveys/<digest>.json``, named by the digest of what was looked at.

What revisions of models were resolved to last: ``models/<digest>.json``, one for each model and revision.

A run that can't ask the Hub goes on with it: its results have the keys that they had when the Hub was there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from annotationrun_worker.errors import StagingError
from annotationrun_worker.staging.digests import Digest, canonical_json, digest_json, is_commit
from annotationrun_worker.staging.once import create_once, decoded, parse_object
from annotationrun_worker.staging.store import StagingStore

_SURVEY_FORMAT: Final = 2
"""Changes with every change of what is looked at."""


@dataclass(frozen=True, slots=True)
class StagedSurvey:
    """What was found of a source."""

    faults: Mapping[int, str]
    """Why an episode can't be annotated, by its index."""
    tasks: Mapping[int, str]
    """The task of an episode, where ``meta/episodes`` has another text, by its index."""
    warnings: Sequence[str]
    quick_parts: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """What the quick fingerprints of an episode are made of, by its index; of those without fault."""


async def stage_survey(store: StagingStore, digest: Digest, survey: StagedSurvey) -> None:
    """Stage ``survey``; ``digest`` stands for what was looked at.

    Raises:
        StorageError: the store can't be written.
    """
    content = canonical_json({"format": _SURVEY_FORMAT, **asdict(survey)})
    await create_once(store, f"surveys/{digest}.json", content, decode_survey)


async def read_survey(store: StagingStore, digest: Digest) -> StagedSurvey | None:
    """The survey of what ``digest`` stands for; ``None``: none that can be read, or of another version.

    Raises:
        StorageError: the store can't be read.
    """
    path = f"surveys/{digest}.json"
    return decoded(store, path, await store.read(path), decode_survey)


def decode_survey(content: bytes) -> StagedSurvey | None:
    """Read staged bytes; ``None``: of another version.

    Raises:
        StagingError: they are cut, or no survey.
    """
    try:
        value = parse_object(content)
        if value["format"] != _SURVEY_FORMAT:
            return None
        faults, tasks = (
            {int(index): str(text) for index, text in value[name].items()} for name in ("faults", "tasks")
        )
        parts = {int(index): dict(found) for index, found in value["quick_parts"].items()}
        return StagedSurvey(faults, tasks, list(value["warnings"]), parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StagingError(f"no survey: {error!r}") from error


async def stage_plan(store: StagingStore, plan: Mapping[str, Any]) -> Digest:
    """Stage ``plan``, a JSON object; its digest.

    Raises:
        StorageError: the store can't be written.
    """
    digest = digest_json(plan)
    await create_once(
        store, f"plans/{digest}.json", canonical_json(plan), lambda content: decode_named(content, digest)
    )
    return digest


async def read_plan(store: StagingStore, digest: Digest) -> dict[str, Any] | None:
    """The plan ``digest``; ``None``: there is none that can be read.

    Raises:
        StorageError: the store can't be read.
    """
    path = f"plans/{digest}.json"
    return decoded(store, path, await store.read(path), lambda content: decode_named(content, digest))


def decode_named(content: bytes, digest: str) -> dict[str, Any]:
    """Read the staged bytes of what is named by the ``digest`` of its content.

    Raises:
        StagingError: they are cut, or something else.
    """
    try:
        value = parse_object(content)
        found = digest_json(value)
    except (ValueError, RecursionError) as error:
        raise StagingError(f"not what was staged: {error}") from error
    if found != digest:
        raise StagingError(f"it has digest {found}")
    return value


async def stage_merge(store: StagingStore, note: Mapping[str, Any]) -> None:
    """Stage ``note``, a JSON object, of a merge.

    Raises:
        StorageError: the store can't be written.
    """
    digest = digest_json(note)
    await create_once(
        store, f"merges/{digest}.json", canonical_json(note), lambda content: decode_named(content, digest)
    )


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
