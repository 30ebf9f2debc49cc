"""Contact sheets: many small frames in one image, each with its time in the top left corner."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import PIL.Image
import torch
from PIL import ImageDraw, ImageFont

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.context import EpisodeContext
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.vlm.messages import ContentPart, image_part, to_jpeg, to_picture

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

    def prompt_values(self, frame_count: int) -> Mapping[str, object]:
        """What the prompts say of the sheets of ``frame_count`` frames."""
        return {
            "sheet_count": -(-frame_count // self.frames_per_sheet),
            "frame_count": frame_count,
            "columns": self.columns,
            "frames_per_sheet": self.frames_per_sheet,
        }


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


def build_tile(frame: torch.Tensor, seconds: float, width_pixels: int) -> PIL.Image.Image:
    """One frame, uint8 (3, height, width) RGB, scaled to ``width_pixels`` and marked with its time."""
    picture = to_picture(frame)
    height = max(1, round(picture.height * width_pixels / picture.width))
    tile = picture.resize((width_pixels, height), PIL.Image.Resampling.LANCZOS)
    draw_badge(tile, seconds)
    return tile


def build_sheets(frames: torch.Tensor, seconds: Sequence[float], layout: SheetLayout) -> list[bytes]:
    """Lay ``frames`` out on sheets; returns them as JPEG, in order.

    Args:
        frames: uint8 (n, 3, height, width) RGB.
        seconds: n times, the snapped times of the frames relative to the window's zero.
        layout: columns, frames a sheet, tile width, quality. The last sheet has only the rows it fills; a
            sheet with fewer frames than columns only the columns it fills.
    """
    tiles = [
        build_tile(frame, time, layout.tile_width_pixels) for frame, time in zip(frames, seconds, strict=True)
    ]
    size = layout.frames_per_sheet
    return [
        to_jpeg(_paste(tiles[start : start + size], layout.columns), layout.jpeg_quality)
        for start in range(0, len(tiles), size)
    ]


async def show_on_sheets(
    context: EpisodeContext, camera: CameraKey, frames: Sequence[int], layout: SheetLayout
) -> list[ContentPart]:
    """Decode ``frames`` (increasing) and lay them out; their times count from the first of them.

    Raises:
        FrameDecodeError: one of them can't be decoded.
    """
    pictures = await context.decode(frames, camera)
    zero_seconds = context.seconds(frames[0])
    times = [context.seconds(frame) - zero_seconds for frame in frames]
    return [image_part(jpeg) for jpeg in await asyncio.to_thread(build_sheets, pictures, times, layout)]


def _paste(tiles: Sequence[PIL.Image.Image], columns: int) -> PIL.Image.Image:
    width, height = tiles[0].size
    used_columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = PIL.Image.new("RGB", (used_columns * width, rows * height))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % columns * width, place // columns * height))
    return sheet
