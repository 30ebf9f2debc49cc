"""Tiles: frames scaled to the width that they have on a contact sheet.

Made in the decoder's child, so that only they pass through the shared memory and stand in the cache, or of
whole frames that are there anyway: by the same function, so that their pixels don't depend on the way.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

REDUCING_GAP: Final = 1.4
"""What is left to the bicubic filter after whole pixels were averaged (Pillow's ``reducing_gap``): a third of
the time of the filter alone, and half a level from it."""


@dataclass(frozen=True, slots=True)
class TileSize:
    """Of tiles ``width`` pixels wide, made of frames of ``frame_width`` x ``frame_height``."""

    frame_width: int
    frame_height: int
    width: int

    @property
    def height(self) -> int:
        """In pixels; it keeps the proportions."""
        return max(1, round(self.frame_height * self.width / self.frame_width))


def tile_of(frame: NDArray[np.uint8], width_pixels: int) -> NDArray[np.uint8]:
    """The tile of one frame, both uint8 (height, width, 3) RGB."""
    # Imported where tiles are made: a child that gives whole frames is there sooner.
    import PIL.Image

    height, width, _ = frame.shape
    size = (width_pixels, TileSize(width, height, width_pixels).height)
    picture = PIL.Image.fromarray(frame)
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP))


def tiles_of(frames: NDArray[np.uint8], width_pixels: int) -> NDArray[np.uint8]:
    """The tiles of frames (n, height, width, 3): (n, tile height, ``width_pixels``, 3)."""
    count, height, width, _ = frames.shape
    size = TileSize(width, height, width_pixels)
    tiles = np.empty((count, size.height, size.width, 3), dtype=np.uint8)
    for tile, frame in zip(tiles, frames, strict=True):
        np.copyto(tile, tile_of(frame, width_pixels))
    return tiles
