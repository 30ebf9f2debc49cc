"""What a run set out to do, and what its merge took: ``plans/<digest>.json``, ``merges/<digest>.json``.

A plan is named by the digest of its own content, the note of a merge by the merge digest.
"""

import json
from collections.abc import Mapping
from typing import Any

from annotationrun_worker.errors import StagingError
from annotationrun_worker.staging.digests import Digest, canonical_json, digest_json
from annotationrun_worker.staging.store import StagingStore


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


async def stage_merge(store: StagingStore, digest: Digest, note: Mapping[str, Any]) -> None:
    """Stage ``note``, a JSON object, of the merge ``digest``; one that is there already stays.

    Raises:
        StorageError: the store can't be written.
    """
    await store.create(f"merges/{digest}.json", canonical_json(note))
