"""Decoders whose files are fetched first, and the aliases that make fetching needless.

``aliases/<digest>`` in staging says what the packets of a stretch of a file hash to, for a file whose content
is known by its SHA-256 alone: so an episode's fingerprint, and by it the results that are staged, are known
without a byte of video.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.layout import DatasetFiles
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.once import decode_digest, decoded
from annotationrun_worker.staging.store import StagingStore
from annotationrun_worker.video.decoder import Decoder, EpisodeVideo
from annotationrun_worker.video.image_decoder import EpisodeImages, Images
from annotationrun_worker.video.provider import Decoders
from annotationrun_worker.video.tiles import TileSize

ALIAS_FORMAT: Final = 1
"""Changes with every change of what a packet digest is."""


def fetched(decoders: Decoders, files: DatasetFiles, store: StagingStore) -> Decoders:
    """Put the fetching of ``files`` before ``decoders``; those of a folder are there."""
    if not files.commit:
        return decoders
    return Decoders(
        FetchedVideos(decoders.videos, files, Aliases(store)),
        FetchedImages(decoders.images, files, Aliases(store)),
    )


@dataclass(frozen=True, slots=True)
class Aliases:
    """What stretches of known files hash to; safe for any number of threads."""

    store: StagingStore

    def read(self, stretch: dict[str, Any]) -> str | None:
        """The digest of ``stretch``, if it is known.

        Raises:
            StorageError: the store can't be read.
        """
        path = _alias_path(stretch)
        return decoded(self.store, path, self.store.read_now(path), decode_digest)

    def write(self, stretch: dict[str, Any], digest: str) -> None:
        """Note the ``digest`` of ``stretch``.

        Raises:
            StorageError: the store can't be written.
        """
        self.store.put_now(_alias_path(stretch), digest.encode())


class FetchedVideos:
    """A ``Decoder`` of files that come when they are needed."""

    def __init__(self, decoder: Decoder, files: DatasetFiles, aliases: Aliases) -> None:
        """Take over ``decoder``: closing this closes it."""
        self._decoder = decoder
        self._files = files
        self._aliases = aliases

    @property
    def fallback_files(self) -> int:
        """See ``Decoder.fallback_files``."""
        return self._decoder.fallback_files

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        """See ``VideoFrames.frames``."""
        with self._files.using(video.span.path):
            return self._decoder.frames(video, targets_seconds, tolerances_seconds, tile)

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        """See ``Decoder.frame_size``."""
        with self._files.using(video.span.path):
            return self._decoder.frame_size(video)

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        """See ``Decoder.packet_digest``."""
        sha256 = self._files.sha256_of(video.span.path)
        stretch = {
            "file": sha256, "startSeconds": start_seconds, "stopSeconds": stop_seconds,
            "frames": video.frame_count,
        }  # fmt: skip
        known = None if sha256 is None else self._aliases.read(stretch)
        if known is not None:
            return known
        with self._files.using(video.span.path):
            digest = self._decoder.packet_digest(video, start_seconds, stop_seconds)
        if sha256 is not None:
            self._aliases.write(stretch, digest)
        return digest

    def close(self) -> None:
        """End all processes."""
        self._decoder.close()


class FetchedImages:
    """``Images`` in files that come when they are needed."""

    def __init__(self, images: Images, files: DatasetFiles, aliases: Aliases) -> None:
        """Take over ``images``: closing this closes it."""
        self._images = images
        self._files = files
        self._aliases = aliases

    def frames(
        self, images: EpisodeImages, indices: Sequence[int], times: str, tile: TileSize | None = None
    ) -> NDArray[np.uint8]:
        """See ``ImageDecoder.frames``."""
        with self._files.using(images.span.path):
            return self._images.frames(images, indices, times, tile)

    def digest(self, images: EpisodeImages) -> str:
        """See ``ImageDecoder.digest``."""
        span, sha256 = images.span, self._files.sha256_of(images.span.path)
        stretch = {"file": sha256, "column": span.column, "row": span.first_row, "rows": span.row_count}
        known = None if sha256 is None else self._aliases.read(stretch)
        if known is not None:
            return known
        with self._files.using(span.path):
            digest = self._images.digest(images)
        if sha256 is not None:
            self._aliases.write(stretch, digest)
        return digest

    def close(self) -> None:
        """End all processes."""
        self._images.close()


def _alias_path(stretch: dict[str, Any]) -> str:
    return f"aliases/{digest_json({'format': ALIAS_FORMAT, **stretch})}"
