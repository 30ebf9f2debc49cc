"""Answers of the model, staged one by one as they arrive: ``answers/<d[:2]>/<d>.json``.

A killed process loses only the requests in flight, and an edited setting re-asks only what it changes.
"""

import json
from dataclasses import asdict, dataclass

from annotationrun_worker.errors import StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.staging.digests import Digest, canonical_json
from annotationrun_worker.staging.store import StagingStore


@dataclass(frozen=True, slots=True)
class StagedAnswer:
    """A usable answer."""

    request: Digest
    """Digest of the body that was sent and got this answer (a corrected or longer one may differ from the
    first, whose digest is the key)."""
    content: str
    """What the model said, as it said it."""
    prompt_tokens: int
    completion_tokens: int


def _path(key: Digest) -> str:
    return f"answers/{key[:2]}/{key}.json"


async def read_answer(store: StagingStore, key: Digest) -> StagedAnswer | None:
    """The staged answer under ``key``, or ``None``.

    Raises:
        StagingError: the object there is not an answer.
    """
    content = await store.read(_path(key))
    if content is None:
        return None
    try:
        return StagedAnswer(**json.loads(content))
    except (ValueError, TypeError) as error:
        raise StagingError(
            f"the staged answer {_path(key)!r} in {store.location!r} is not one ({error}); delete it, "
            "it will be asked again"
        ) from error


async def stage_answer(store: StagingStore, key: Digest, answer: StagedAnswer) -> StagedAnswer:
    """Stage ``answer``; returns what stands under ``key`` now, another worker's if that was first."""
    reached(FaultPoint.BEFORE_ANSWER)
    was_first = await store.create(_path(key), canonical_json(asdict(answer)) + b"\n")
    reached(FaultPoint.AFTER_ANSWER)
    if was_first:
        return answer
    winner = await read_answer(store, key)
    return winner if winner is not None else answer
