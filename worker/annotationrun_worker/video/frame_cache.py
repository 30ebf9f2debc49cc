"""Decoded frames that are kept, so that each is decoded once.

Decoded frames that were used last, bounded in bytes, shared by threads.

A lock for each key, there only as long as somebody holds it or waits for it.

Frames that were decoded before, or are now; each is decoded once, however many ask for it.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeRecord
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.video.tiles import TileSize

Key = TypeVar("Key")
Value = TypeVar("Value")


class ByteBoundedCache(Generic[Key, Value]):
    """A least-recently-used cache bounded by the bytes of its values; safe for any number of threads.

    A value larger than the bound is not kept; a bound of 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Sum of the sizes of what is held."""
        with self._lock:
            return self._held_bytes

    def get(self, key: Key) -> Value | None:
        """Return the value and mark it as used; None if it is not held."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Keep the value, and drop the least recently used ones until everything fits."""
        if size_bytes > self._max_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(key, None)
            if replaced is not None:
                self._held_bytes -= replaced[1]
            self._entries[key] = (value, size_bytes)
            self._held_bytes += size_bytes
            while self._held_bytes > self._max_bytes:
                _, (_, dropped_bytes) = self._entries.popitem(last=False)
                self._held_bytes -= dropped_bytes


LockKey = TypeVar("LockKey", bound=Hashable)


class KeyedLocks(Generic[LockKey]):
    """Locks by key; safe for any number of threads."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[LockKey, threading.Lock] = WeakValueDictionary()
        self._finding = threading.Lock()

    def __len__(self) -> int:
        """Number of keys that somebody holds or waits for."""
        return len(self._locks)

    @contextmanager
    def held(self, key: LockKey) -> Iterator[None]:
        """Wait until nobody else holds ``key``, and hold it."""
        with self._finding:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            yield


_LOG = logging.getLogger(__name__)

FrameKey: TypeAlias = tuple[int, CameraKey, int | None, int]
"""Episode, camera, width of the tile (None: the whole frame), frame."""

Batch: TypeAlias = tuple[Sequence[int], NDArray[np.uint8]]
"""Numbers of frames, and the frames: (n, height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What is made of an episode's frames of one camera."""

    episode: EpisodeRecord
    camera: CameraKey
    frame_size: tuple[int, int]
    """(width, height), as meta/info.json says."""
    tile: TileSize | None = None
    """None: they are given whole."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of each: (height, width, 3)."""
        width, height = self.frame_size if self.tile is None else (self.tile.width, self.tile.height)
        return height, width, 3

    def key(self, index: int) -> FrameKey:
        """Of a frame, in the cache."""
        return int(self.episode.index), self.camera, self.tile.width if self.tile else None, index


class CachedFrames:
    """Decoded frames, those used last kept; safe for any number of threads."""

    def __init__(self, cache_bytes: int, decode: Callable[[Shown, Sequence[int]], Iterator[Batch]]) -> None:
        """``decode`` gives the frames with rising numbers, in order, some at a time; they are ours then."""
        self._decode_batches = decode
        self._cache: ByteBoundedCache[FrameKey, NDArray[np.uint8]] = ByteBoundedCache(cache_bytes)
        # One an episode and camera, held while decoding: who wants the same frames finds them in the cache.
        self._decoding: KeyedLocks[tuple[int, CameraKey]] = KeyedLocks()
        self._counting = threading.Lock()
        self._counts = FrameCounts()

    @property
    def counts(self) -> FrameCounts:
        """What happened so far, but for the decoders' own."""
        with self._counting:
            return self._counts

    def frames(self, shown: Shown, indices: Iterable[int]) -> NDArray[np.uint8]:
        """The frames, or tiles of them, in the order asked for: the caller's own, as ``Shown.shape`` says.

        Raises:
            FrameDecodeError: one of them can't be decoded.
        """
        asked = [int(index) for index in indices]
        wanted = sorted(set(asked))
        found, missing = self._cached(shown, wanted), list[int]()
        decoded = np.empty((0, *shown.shape), dtype=np.uint8)
        if len(found) < len(wanted):
            with self._decoding.held((int(shown.episode.index), shown.camera)):
                found |= self._cached(shown, [index for index in wanted if index not in found])
                missing = [index for index in wanted if index not in found]
                try:
                    decoded = self._decode(shown, missing)
                except FrameDecodeError as error:
                    self._count_failure(len(asked), error)
                    raise
        self._count(FrameCounts(asked=len(asked), decoded=len(missing), from_cache=len(asked) - len(missing)))
        if missing == asked:
            return decoded  # as for most calls: there is nothing to put together
        found |= zip(missing, decoded, strict=True)
        frames = np.empty((len(asked), *shown.shape), dtype=np.uint8)
        for place, index in enumerate(asked):
            frames[place] = found[index]
        return frames

    def _cached(self, shown: Shown, indices: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
        held = {index: self._cache.get(shown.key(index)) for index in indices}
        return {index: frame for index, frame in held.items() if frame is not None}

    def _decode(self, shown: Shown, indices: Sequence[int]) -> NDArray[np.uint8]:
        """The frames (rising indices), which the cache gets as well."""
        frames = np.empty((0, *shown.shape), dtype=np.uint8)
        start = 0
        for numbers, batch in self._decode_batches(shown, indices):
            for index, frame in zip(numbers, batch, strict=True):
                # a copy: a view would keep the whole batch in memory
                self._cache.put(shown.key(index), frame.copy(), frame.nbytes)
            if len(batch) == len(indices):
                return batch
            if not start:
                frames = np.empty((len(indices), *shown.shape), dtype=np.uint8)
            frames[start : start + len(batch)] = batch
            start += len(batch)
        return frames

    def _count(self, more: FrameCounts) -> None:
        with self._counting:
            self._counts += more

    def _count_failure(self, frames: int, error: FrameDecodeError) -> None:
        level = logging.DEBUG if self.counts.failed else logging.ERROR
        self._count(FrameCounts(asked=frames, failed=frames))
        _LOG.log(level, "frames can't be decoded (the first is logged, all are counted): %s", error)
