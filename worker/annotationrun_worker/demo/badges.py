"""Reads the time in the corner of a contact sheet's tile from its pixels.

The badge is ``012.50s`` in white on a black box, in Pillow's default font at 14 px, the text two pixels from
the tile's top left corner. The digits of that font are all 8 px wide, so each has its place, and reading is
comparing each place with ten pictures.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_FONT_PIXELS = 14
_MARGIN_PIXELS = 2
_WIDTH, _HEIGHT = 54, 18
"""The black box in pixels."""
_DIGIT_LEFTS = (2, 10, 18, 29, 37)
"""Where the digits of ``DDD.DDs`` start, in pixels from the left."""
_DIGIT_WIDTH = 8
_MAX_MEAN_ERROR = 24.0
"""Mean difference in grey levels between badge and reading; JPEG 84 makes about 5, no badge 60 and more."""


@lru_cache(maxsize=1024)
def _picture(text: str) -> NDArray[np.float32]:
    """The badge that says ``text``, grey, float32 of shape (18, 54)."""
    badge = Image.new("L", (_WIDTH, _HEIGHT))
    font = ImageFont.load_default(size=_FONT_PIXELS)
    ImageDraw.Draw(badge).text((_MARGIN_PIXELS, _MARGIN_PIXELS), text, font=font, fill=255)
    return np.asarray(badge, np.float32)


@lru_cache(maxsize=1)
def _digits() -> NDArray[np.float32]:
    """Each digit at each of its places: float32 of shape (10, 5, 18, 8)."""
    pictures = (_picture(f"{d}{d}{d}.{d}{d}s") for d in "0123456789")
    places = [[picture[:, x : x + _DIGIT_WIDTH] for x in _DIGIT_LEFTS] for picture in pictures]
    return np.array(places, np.float32)


def read_badge(tile: NDArray[np.uint8]) -> str | None:
    """The text in the top left corner of ``tile`` (height, width, 3), like ``012.50s``; None without one."""
    if tile.shape[0] < _HEIGHT or tile.shape[1] < _WIDTH:
        return None
    grey = tile[:_HEIGHT, :_WIDTH].astype(np.float32).mean(-1)
    seen = np.stack([grey[:, x : x + _DIGIT_WIDTH] for x in _DIGIT_LEFTS])
    errors = ((_digits() - seen) ** 2).sum((2, 3))
    d = [str(digit) for digit in errors.argmin(0)]
    text = f"{d[0]}{d[1]}{d[2]}.{d[3]}{d[4]}s"
    return text if np.abs(_picture(text) - grey).mean() < _MAX_MEAN_ERROR else None


def badge_seconds(badge: str) -> float:
    """The time that a badge says, in seconds."""
    return float(badge.removesuffix("s"))
