"""Frames that were decoded before, or are now; each is decoded once, however many ask for it."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.frames.cache import ByteBoundedCache
from annotationrun_worker.frames.keyed_locks import KeyedLocks
from annotationrun_worker.frames.protocol import FrameCounts
from annotationrun_worker.frames.tiles import TileSize

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
