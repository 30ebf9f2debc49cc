"""Contact sheets: many small frames in one image, each with its time in the top left corner."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.frames.tiles import TileSize
from annotationrun_worker.vlm.messages import to_jpeg

BADGE_FONT_PIXELS = 14
"""Readable at the default tile width of 224 px after JPEG 84."""
BADGE_MARGIN_PIXELS = 2


@dataclass(frozen=True, slots=True)
class SheetLayout:
    """How sheets are laid out: row by row, left to right."""

    columns: int
    frames_per_sheet: int
    tile_width_pixels: int
    jpeg_quality: int

    @classmethod
    def of(cls, settings: PlanModule) -> Self:
        """The layout that the manifest asks for."""
        return cls(
            columns=settings.sheet_columns,
            frames_per_sheet=settings.frames_per_sheet,
            tile_width_pixels=settings.tile_width,
            jpeg_quality=settings.sheet_jpeg_quality,
        )

    def slices(self, frame_count: int) -> list[slice]:
        """Which of the frames stand on each sheet, in order."""
        most = self.frames_per_sheet
        return [slice(start, min(start + most, frame_count)) for start in range(0, frame_count, most)]

    def grid(self, frame_count: int) -> tuple[int, int]:
        """Columns and rows of a sheet of ``frame_count`` frames: those that they fill."""
        columns = min(self.columns, frame_count)
        return columns, -(-frame_count // columns)

    def sheet_size(self, frame_count: int, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of a sheet of ``frame_count`` frames of ``width`` x ``height`` each."""
        columns, rows = self.grid(frame_count)
        return columns * self.tile_width_pixels, rows * TileSize(width, height, self.tile_width_pixels).height


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=BADGE_FONT_PIXELS)


def draw_badge(tile: PIL.Image.Image, seconds: float) -> None:
    """Write ``seconds`` as ``012.50s``, white on black, into the top left corner of ``tile``."""
    text = f"{seconds:06.2f}s"
    draw = ImageDraw.Draw(tile)
    _, _, right, bottom = draw.textbbox((BADGE_MARGIN_PIXELS, BADGE_MARGIN_PIXELS), text, font=_font())
    draw.rectangle((0, 0, right + BADGE_MARGIN_PIXELS, bottom + BADGE_MARGIN_PIXELS), fill="black")
    draw.text((BADGE_MARGIN_PIXELS, BADGE_MARGIN_PIXELS), text, font=_font(), fill="white")


def build_sheet(tiles: NDArray[np.uint8], seconds: Sequence[float], layout: SheetLayout) -> bytes:
    """Lay the tiles of one sheet out, row by row, each marked with its time; returns it as JPEG.

    Args:
        tiles: uint8 (n, height, the layout's width, 3) RGB, no more than go onto a sheet.
        seconds: the n times that are written into the tiles.
        layout: columns, quality. A sheet has only the rows that it fills; with fewer tiles than columns only
            the columns that it fills.
    """
    count, height, width, _ = tiles.shape
    columns, rows = layout.grid(count)
    sheet = PIL.Image.new("RGB", (columns * width, rows * height))
    for place, (pixels, time) in enumerate(zip(tiles, seconds, strict=True)):
        tile = PIL.Image.fromarray(pixels)
        draw_badge(tile, time)
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return to_jpeg(sheet, layout.jpeg_quality)
