"""Answers of the model, staged one by one as they arrive: ``answers/<d[:2]>/<d>.json``.

A killed process loses only the requests in flight, and an edited setting re-asks only what it changes.
"""

from dataclasses import asdict, dataclass

from annotationrun_worker.errors import StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.staging.digests import Digest, canonical_json
from annotationrun_worker.staging.once import create_once, decoded, parse_object
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


def decode_answer(content: bytes) -> StagedAnswer:
    """Read staged bytes.

    Raises:
        StagingError: they are cut, or no answer.
    """
    try:
        answer = StagedAnswer(**parse_object(content))
    except (ValueError, TypeError) as error:
        raise StagingError(f"no staged answer: {error}") from error
    counts = (answer.prompt_tokens, answer.completion_tokens)
    if not isinstance(answer.content, str) or not isinstance(answer.request, str):
        raise StagingError("no staged answer: its content and request have to be strings")
    if not all(type(count) is int for count in counts):
        raise StagingError(f"no staged answer: its tokens have to be integers, not {counts}")
    return answer


async def read_answer(store: StagingStore, key: Digest) -> StagedAnswer | None:
    """The staged answer under ``key``; ``None``: there is none that can be read.

    Raises:
        StorageError: the store can't be read.
    """
    return decoded(store, _path(key), await store.read(_path(key)), decode_answer)


async def stage_answer(store: StagingStore, key: Digest, answer: StagedAnswer) -> StagedAnswer:
    """Stage ``answer``; returns what stands under ``key`` now, another worker's if that was first.

    Raises:
        StorageError: the store can't be read or written.
    """
    reached(FaultPoint.BEFORE_ANSWER)
    first = await create_once(store, _path(key), canonical_json(asdict(answer)) + b"\n", decode_answer)
    reached(FaultPoint.AFTER_ANSWER)
    return answer if first is None else first
