"""Answers and results, and the index that finds results without a frame being read.

Answers of the model, staged one by one as they arrive: ``answers/<d[:2]>/<d>.json``.

A killed process loses only the requests in flight, and an edited setting re-asks only what it changes.

Results of a module for one episode, staged whole: ``results/<module>/<k[:2]>/<k>.jsonl``.

The first line says what the result is; each further line is one row. Where questions stayed without a usable
answer, they may be asked again: what comes of it is a further round of the same result, staged under a key of
its own, and no round is ever overwritten.

Which results are staged, found by what a plan knows without reading a frame: ``index/<module>/<name>``.

The name of an entry says everything, and the object is empty: listing a module's entries is enough, however
many episodes there are. An entry is a hint: work is planned by it, and whoever makes or merges results looks
for them by their own keys.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from annotationrun_worker.errors import StagingError
from annotationrun_worker.fault_points import FaultPoint, reached
from annotationrun_worker.language.rows import ResultName, StagedRow
from annotationrun_worker.staging.digests import (
    Digest,
    canonical_json,
    digest_bytes,
    digest_json,
    is_digest,
    token_digest,
)
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


def _answer_path(key: Digest) -> str:
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
    return decoded(store, _answer_path(key), await store.read(_answer_path(key)), decode_answer)


async def stage_answer(store: StagingStore, key: Digest, answer: StagedAnswer) -> StagedAnswer:
    """Stage ``answer``; returns what stands under ``key`` now, another worker's if that was first.

    Raises:
        StorageError: the store can't be read or written.
    """
    reached(FaultPoint.BEFORE_ANSWER)
    first = await create_once(store, _answer_path(key), canonical_json(asdict(answer)) + b"\n", decode_answer)
    reached(FaultPoint.AFTER_ANSWER)
    return answer if first is None else first


RESULT_FORMAT = 1
"""Counts up when the same answers would make other rows."""
NO_RETRY_TOKEN: Final = token_digest("")


@dataclass(frozen=True, slots=True)
class ModuleResult:
    """What a module made of one episode."""

    module: ResultName
    key: Digest
    rows: Sequence[StagedRow]
    unanswered: Sequence[Mapping[str, Any]] = ()
    """Questions without a usable answer: frame, camera, kind, cause."""
    retry_token: Digest = NO_RETRY_TOKEN
    """Digest of the retry token under which it was made: see ``token_digest``."""
    attempt: int = 0
    """With which its questions were asked: see ``Asker.attempt``."""
    earlier_rounds: Sequence[Digest] = ()
    """Keys of the rounds before it, without which nobody finds it."""

    @property
    def content_digest(self) -> Digest:
        """Digest of the rows alone."""
        return digest_bytes(_row_lines(self.rows))

    @property
    def asked(self) -> int:
        """Number of requests whose answers it holds, and of questions that stayed without one."""
        return len({row.request for row in self.rows if row.request}) + len(self.unanswered)


def _row_lines(rows: Sequence[StagedRow]) -> bytes:
    return "".join(f"{row.to_json()}\n" for row in rows).encode()


def _path(module: ResultName, key: Digest) -> str:
    return f"results/{module}/{key[:2]}/{key}.jsonl"


def encode_result(result: ModuleResult) -> bytes:
    """The staged bytes of ``result``."""
    head = {
        "format": RESULT_FORMAT,
        "module": result.module,
        "key": result.key,
        "row_count": len(result.rows),
        "rows_sha256": result.content_digest,
        "holes": list(result.unanswered),
        "retry_token": result.retry_token,
        "attempt": result.attempt,
        "earlier_rounds": list(result.earlier_rounds),
    }
    return canonical_json(head) + b"\n" + _row_lines(result.rows)


def decode_result(content: bytes, module: ResultName, key: Digest) -> ModuleResult:
    """Read staged bytes.

    Raises:
        StagingError: they are cut, changed, or another result's.
    """
    head_line, _, body = content.partition(b"\n")
    where = f"the staged result {_path(module, key)!r}"
    try:
        head = parse_object(head_line)
        rows = tuple(StagedRow.from_json(line) for line in body.decode().split("\n") if line)
        found = (head["format"], head["module"], head["key"], head["rows_sha256"])
        unanswered = tuple(head["holes"])
        token, attempt = Digest(head.get("retry_token", NO_RETRY_TOKEN)), int(head.get("attempt", 0))
        earlier = tuple(map(Digest, head.get("earlier_rounds", ())))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise StagingError(f"{where} can't be read ({error}); delete it, it will be made again") from error
    expected = (RESULT_FORMAT, module, key, digest_bytes(body))
    if found != expected:
        raise StagingError(f"{where} holds {found}, expected {expected}; delete it, it will be made again")
    return ModuleResult(module, key, rows, unanswered, token, attempt, earlier)


async def read_result(store: StagingStore, module: ResultName, key: Digest) -> ModuleResult | None:
    """The staged result under ``key``; ``None``: there is none that can be read.

    Raises:
        StorageError: the store can't be read.
    """
    path = _path(module, key)
    return decoded(store, path, await store.read(path), lambda content: decode_result(content, module, key))


@dataclass(frozen=True, slots=True)
class Rounds:
    """All rounds of a result that are staged."""

    result: ModuleResult | None
    """The last one; of several with the same rows the first. ``None``: there is none."""
    next_key: Digest
    """Of the round that is not staged yet."""
    keys: Sequence[Digest] = ()
    """Of those that are."""
    next_attempt: int = 0
    """With which it is asked, at least: the earlier ones gave nothing to what stayed without an answer."""
    retry_tokens: frozenset[Digest] = frozenset()
    """Digests of the retry tokens under which they were made."""


async def read_rounds(store: StagingStore, module: ResultName, key: Digest) -> Rounds:
    """The rounds of the result whose first has the key ``key``; one without unanswered questions is the last.

    Of a round that can't be read, and of those after it, nothing is known: it is the next to be made.

    Raises:
        StorageError: the store can't be read.
    """
    latest: ModuleResult | None = None
    keys: list[Digest] = []
    next_key, next_attempt, tokens = key, 0, set[Digest]()
    while (found := await read_result(store, module, next_key)) is not None:
        keys.append(next_key)
        tokens.add(found.retry_token)
        next_attempt = found.attempt + 1
        if latest is None or found.content_digest != latest.content_digest:
            latest = found
        if not found.unanswered:
            break
        next_key = digest_json({"result": key, "after": next_key})
    return Rounds(latest, next_key, keys, next_attempt, frozenset(tokens))


def read_result_now(store: StagingStore, module: ResultName, key: Digest) -> ModuleResult:
    """The staged result under ``key``, for code that runs in a thread of its own.

    Raises:
        StagingError: there is none, or it can't be read.
    """
    content = store.read_now(_path(module, key))
    if content is None:
        raise StagingError(
            f"the staged result {_path(module, key)!r} has gone from {store.location!r}; run again"
        )
    return decode_result(content, module, key)


async def stage_result(store: StagingStore, result: ModuleResult) -> tuple[ModuleResult, bool]:
    """Stage ``result``: what stands under its key now, and whether it is this one.

    False: the result was made twice, another worker's was first and is the one that counts.

    Raises:
        StorageError: the store can't be read or written.
    """
    module, key = result.module, result.key
    reached(FaultPoint.BEFORE_RESULT)
    first = await create_once(
        store, _path(module, key), encode_result(result), lambda content: decode_result(content, module, key)
    )
    reached(FaultPoint.AFTER_RESULT)
    return (result, True) if first is None else (first, False)


INDEX_FOLDER: Final = "index"


@dataclass(frozen=True, slots=True)
class IndexedResult:
    """What an entry says of a result."""

    quick_key: Digest
    """Its key with the quick fingerprint of the episode in place of the fingerprint."""
    key: Digest
    retry_token: Digest
    """Digest of the retry token under which it was made."""
    asked: int
    """Questions, those without a usable answer among them."""
    unanswered: int

    @classmethod
    def of(cls, quick_key: Digest, result: ModuleResult) -> Self:
        """The entry for ``result``."""
        return cls(quick_key, result.key, result.retry_token, result.asked, len(result.unanswered))

    @classmethod
    def named(cls, name: str) -> Self | None:
        """The entry of that name; ``None``: it is none."""
        parts = name.split(".")
        if len(parts) != 5 or not all(map(is_digest, parts[:3])) or not all(map(str.isdecimal, parts[3:])):
            return None
        quick_key, key, token = map(Digest, parts[:3])
        return cls(quick_key, key, token, *map(int, parts[3:]))

    @property
    def name(self) -> str:
        """Of the object."""
        return f"{self.quick_key}.{self.key}.{self.retry_token}.{self.asked}.{self.unanswered}"


@dataclass(slots=True)
class ResultIndex:
    """The entries of a store; one listing a module, when its first entry is added or read."""

    store: StagingStore
    _names: dict[ResultName, set[str]] = field(default_factory=dict)
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def add(self, module: ResultName, entry: IndexedResult) -> None:
        """Note ``entry``, unless it is there.

        Raises:
            StorageError: the store can't be read or written.
        """
        async with self._listing:
            if module not in self._names:
                self._names[module] = {
                    _last(found.path) async for found in self.store.list(f"{INDEX_FOLDER}/{module}")
                }
        names = self._names[module]
        if entry.name not in names:
            names.add(entry.name)
            await self.store.create(f"{INDEX_FOLDER}/{module}/{entry.name}", b"")

    def read_now(self, module: ResultName) -> Mapping[Digest, Sequence[IndexedResult]]:
        """The entries of the results that are staged, by quick key; an empty one is not: power was cut.

        Raises:
            StorageError: the store can't be read.
        """
        staged = {
            _last(found.path).removesuffix(".jsonl")
            for found in self.store.list_now(f"results/{module}")
            if found.size_bytes
        }
        entries: dict[Digest, list[IndexedResult]] = {}
        for found in self.store.list_now(f"{INDEX_FOLDER}/{module}"):
            entry = IndexedResult.named(_last(found.path))
            if entry is not None and entry.key in staged:
                entries.setdefault(entry.quick_key, []).append(entry)
        return entries


def _last(path: str) -> str:
    return path.rpartition("/")[2]
