"""What a run set out to do, and what its merge took: ``plans/<digest>.json``, ``merges/<digest>.json``.

Both are named by the digest of their own content. What was found of a
source on the Hub is in ``surveys/<digest>.json``, named by the digest of what was looked at.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from annotationrun_worker.errors import StagingError
from annotationrun_worker.staging.digests import Digest, canonical_json, digest_json
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
    await store.create(f"surveys/{digest}.json", content)


async def read_survey(store: StagingStore, digest: Digest) -> StagedSurvey | None:
    """The survey of what ``digest`` stands for; ``None``: there is none, or one of another version.

    Raises:
        StagingError: the object there is no survey.
        StorageError: the store can't be read.
    """
    path = f"surveys/{digest}.json"
    content = await store.read(path)
    if content is None:
        return None
    try:
        value = json.loads(content)
        if value["format"] != _SURVEY_FORMAT:
            return None
        faults, tasks = (
            {int(index): str(text) for index, text in value[name].items()} for name in ("faults", "tasks")
        )
        parts = {int(index): dict(found) for index, found in value["quick_parts"].items()}
        return StagedSurvey(faults, tasks, list(value["warnings"]), parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StagingError(
            f"the survey {path!r} in {store.location!r} can't be read ({error!r}); delete it, then plan again"
        ) from error


async def stage_plan(store: StagingStore, plan: Mapping[str, Any]) -> Digest:
    """Stage ``plan``, a JSON object; its digest.

    Raises:
        StorageError: the store can't be written.
    """
    digest = digest_json(plan)
    await store.create(f"plans/{digest}.json", canonical_json(plan))
    return digest


async def read_plan(store: StagingStore, digest: Digest) -> dict[str, Any] | None:
    """The plan ``digest``, or ``None``.

    Raises:
        StagingError: the object there is not that plan.
        StorageError: the store can't be read.
    """
    path = f"plans/{digest}.json"
    content = await store.read(path)
    if content is None:
        return None
    try:
        plan = json.loads(content)
        found = digest_json(plan)
    except ValueError as error:
        raise StagingError(
            f"the plan {path!r} in {store.location!r} can't be read ({error}); delete it, then plan again"
        ) from error
    if found != digest or not isinstance(plan, dict):
        raise StagingError(
            f"the plan {path!r} in {store.location!r} has digest {found}; delete it, then plan again"
        )
    return plan


async def stage_merge(store: StagingStore, note: Mapping[str, Any]) -> None:
    """Stage ``note``, a JSON object, of a merge.

    Raises:
        StorageError: the store can't be written.
    """
    await store.create(f"merges/{digest_json(note)}.json", canonical_json(note))
