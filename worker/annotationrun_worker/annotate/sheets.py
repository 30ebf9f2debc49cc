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
        return columns * self.tile_width_pixels, rows * tile_height(width, height, self.tile_width_pixels)


def tile_height(width: int, height: int, tile_width_pixels: int) -> int:
    """Height in pixels of the tile of a frame of ``width`` x ``height`` pixels."""
    return max(1, round(height * tile_width_pixels / width))


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


def build_tile(frame: NDArray[np.uint8], seconds: float, width_pixels: int) -> PIL.Image.Image:
    """One frame, uint8 (height, width, 3) RGB, scaled to ``width_pixels`` and marked with its time."""
    picture = PIL.Image.fromarray(frame)
    height = tile_height(picture.width, picture.height, width_pixels)
    tile = picture.resize((width_pixels, height), PIL.Image.Resampling.LANCZOS)
    draw_badge(tile, seconds)
    return tile


def build_sheet(frames: NDArray[np.uint8], seconds: Sequence[float], layout: SheetLayout) -> bytes:
    """Lay the frames of one sheet out, row by row; returns it as JPEG.

    Args:
        frames: uint8 (n, height, width, 3) RGB, no more than go onto a sheet.
        seconds: the n times that are written into the tiles.
        layout: columns, tile width, quality. A sheet has only the rows that it fills; with fewer frames than
            columns only the columns that it fills.
    """
    tiles = [
        build_tile(frame, time, layout.tile_width_pixels) for frame, time in zip(frames, seconds, strict=True)
    ]
    width, height = tiles[0].size
    columns, rows = layout.grid(len(tiles))
    sheet = PIL.Image.new("RGB", (columns * width, rows * height))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return to_jpeg(sheet, layout.jpeg_quality)
