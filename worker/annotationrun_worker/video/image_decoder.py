"""Pictures that are stored in the rows of the data files, decoded in a living child process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, ImageSpan
from annotationrun_worker.video.child_process import ChildService, Errand, receive_frames, receive_line
from annotationrun_worker.video.tiles import TileSize

IMAGE_CHILD = "annotationrun_worker.video.image_child"

READ_TIMEOUT_SECONDS = 60.0
"""Longest wait for the next picture, or sign that rows are being read on the way to it."""


@dataclass(frozen=True, slots=True)
class EpisodeImages:
    """Where to read, and for whom; the latter for the errors."""

    episode: EpisodeIndex
    camera: CameraKey
    span: ImageSpan
    frame_size: tuple[int, int] | None = None
    """(width, height) that the pictures have to have; None: whatever the first one has."""

    def at(self, times: str) -> str:
        """Whose pictures and when (``at 0.500 s``), for an error."""
        return f"episode {self.episode}, camera {self.camera!r}, {times}, file {str(self.span.path)!r}"


class Images(Protocol):
    """Decodes pictures outside of this process; safe for any number of threads."""

    def frames(
        self, images: EpisodeImages, indices: Sequence[int], times: str, tile: TileSize | None = None
    ) -> NDArray[np.uint8]:
        """Decode the frames ``indices``; see ``ImageDecoder.frames``."""

    def digest(self, images: EpisodeImages) -> str:
        """Of the coded pictures; see ``ImageDecoder.digest``."""

    def close(self) -> None:
        """End the child processes; a request under way fails."""


class ImageDecoder:
    """Decodes outside of this process; safe for any number of threads."""

    def __init__(self, children: int = 1, timeout_seconds: float = READ_TIMEOUT_SECONDS) -> None:
        self._service = ChildService(IMAGE_CHILD, timeout_seconds, children)

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._service.child_pids

    def frames(
        self, images: EpisodeImages, indices: Sequence[int], times: str, tile: TileSize | None = None
    ) -> NDArray[np.uint8]:
        """Decode the frames ``indices`` (0-based in the episode, rising).

        Returns uint8 of shape (len(indices), height, width, 3), RGB; tiles instead of the whole frames with
        ``tile``. ``times`` is for the errors.

        Raises:
            FrameSizeError: the frames are not of the size that ``images`` or ``tile`` says.
            FrameDecodeError: a row can't be read, or holds no picture.
        """
        rows = [images.span.first_row + int(index) for index in indices]
        request = {**_request("frames" if tile is None else "tiles", images), "rows": rows}
        if images.frame_size is not None:
            request |= dict(zip(("width", "height"), images.frame_size, strict=True))
        if tile is not None:
            request |= {"width": tile.frame_width, "height": tile.frame_height, "tile_width": tile.width}
        errand = Errand(images.at(times), images.span.path, request)
        return self._service.ask(errand, lambda child: receive_frames(child, len(rows)))

    def digest(self, images: EpisodeImages) -> str:
        """SHA-256 (hex) over the coded pictures of the episode, in row order; see ``ImageFile.sha256``.

        Raises:
            FrameDecodeError: a row can't be read.
        """
        span = {"first_row": images.span.first_row, "row_count": images.span.row_count}
        errand = Errand(images.at("all frames"), images.span.path, {**_request("digest", images), **span})
        return self._service.ask(errand, lambda child: str(receive_line(child, "done")["sha256"]))

    def close(self) -> None:
        """End the child processes; a request under way fails."""
        self._service.close()


def _request(op: str, images: EpisodeImages) -> dict[str, object]:
    span = images.span
    return {"op": op, "path": str(span.path), "column": span.column, "root": str(span.root)}
