"""The frames of a prompt: which are taken, and how they are put before the model.

Which frames the modules look at: pure, deterministic, by index into the episode's frames.

Contact sheets: many small frames in one image, each with its time in the top left corner.

How the frames of a prompt are put before the model: contact sheets, single frames, or a video.

Whichever it is, the times that the model is told count from the first frame shown.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from annotationrun_api.spec_modules import ModulesSpec, PlanModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.modules.base import EpisodeContext
from annotationrun_worker.video.tiles import TileSize
from annotationrun_worker.video.timestamps import nearest
from annotationrun_worker.vlm.messages import ContentPart, clip_fields, image_part, to_jpeg, to_video_block


def sample_times(first_seconds: float, last_seconds: float, rate_hz: float) -> list[float]:
    """``first + i / rate`` for every i that is not past ``last`` (by more than a rounding error)."""
    count = math.floor((last_seconds - first_seconds) * rate_hz + 1e-6) + 1
    return [first_seconds + i / rate_hz for i in range(count)]


def plan_samples(timestamps_seconds: NDArray[np.float32], frames_per_second: float) -> list[int]:
    """Frames for the plan module: ``t0 + i / fps`` plus the last frame, snapped, distinct, increasing."""
    first, last = float(timestamps_seconds[0]), float(timestamps_seconds[-1])
    sampled = nearest(timestamps_seconds, sample_times(first, last, frames_per_second)).tolist()
    return sorted({*sampled, len(timestamps_seconds) - 1})


def vqa_frames(
    timestamps_seconds: NDArray[np.float32], emission_hz: float, frames_per_tick: int
) -> list[int]:
    """Frames that get a question: at each tick the nearest one and the next ``frames_per_tick - 1``."""
    first, last = float(timestamps_seconds[0]), float(timestamps_seconds[-1])
    ticks = nearest(timestamps_seconds, sample_times(first, last, emission_hz)).tolist()
    frames = {tick + k for tick in ticks for k in range(frames_per_tick)}
    return sorted(frame for frame in frames if frame < len(timestamps_seconds))


@dataclass(frozen=True, slots=True)
class Window:
    """A contiguous slice of the samples that goes into one prompt."""

    frames: tuple[int, ...]
    """The sampled frames, increasing."""
    zero_seconds: float
    """Time of its first sample: the zero of the times burned into its tiles and of the model's answer."""
    end_seconds: float
    """Where the next window's first sample begins; the last frame's time in the last window."""

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return self.end_seconds - self.zero_seconds


def split_windows(
    samples: Sequence[int], timestamps_seconds: NDArray[np.float32], max_frames: int
) -> list[Window]:
    """Cut ``samples`` into ceil(n / max_frames) slices whose lengths differ by one sample at most."""
    count = math.ceil(len(samples) / max_frames)
    slices = [part.tolist() for part in np.array_split(np.asarray(samples), count)]
    ends = [part[0] for part in slices[1:]] + [samples[-1]]
    return [
        Window(
            frames=tuple(part),
            zero_seconds=float(timestamps_seconds[part[0]]),
            end_seconds=float(timestamps_seconds[end]),
        )
        for part, end in zip(slices, ends, strict=True)
    ]


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


FRAMES_AT_ONCE: Final = 20
"""Decoded together and encoded before the next are: as many as stand on a sheet by default."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Frames as they go into a prompt."""

    parts: Sequence[ContentPart]
    words: str
    """What the prompt says of them: its ``{shown}``."""
    told_seconds: tuple[float, ...]
    """The time at which the model sees each frame, from the first one."""
    true_seconds: tuple[float, ...]
    """The time of each frame, from the first one."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """What the request needs beside its content."""

    def to_told_seconds(self, seconds: float) -> float:
        """The time at which the model sees a true time within the frames; both from the first frame."""
        return float(np.interp(seconds, self.true_seconds, self.told_seconds))

    def to_true_seconds(self, seconds: float) -> float:
        """The true time of a time that the model names, which may lie outside; both from the first frame."""
        inside = float(np.interp(seconds, self.told_seconds, self.true_seconds))
        outside = min(seconds - self.told_seconds[0], 0.0) + max(seconds - self.told_seconds[-1], 0.0)
        return inside + outside


def cameras_shown_whole(
    modules: ModulesSpec, cameras: Sequence[CameraKey], default: CameraKey | None
) -> frozenset[CameraKey]:
    """The cameras of which a run shows whole frames; ``default`` is ``None`` for the first one.

    Tiles of these are made of the whole frames, which are decoded anyway; those of others by the decoder.
    """
    shown: set[CameraKey] = set()
    usual = {default} if default is not None else set(cameras[:1])
    if modules.plan is not None and modules.plan.input == "Frames":
        shown |= usual
    if modules.interjections is not None and modules.interjections.max_per_episode:
        shown |= usual
    if modules.vqa is not None:
        shown |= set(cameras) if modules.vqa.cameras == "All" else usual
    return frozenset(shown)


async def show_frames(
    context: EpisodeContext,
    settings: PlanModule,
    camera: CameraKey,
    frames: Sequence[int],
    clip_fps: float | None = None,
) -> Shown:
    """Show ``frames`` (increasing) as ``settings.input`` says.

    Args:
        context: of the episode.
        settings: how frames are shown.
        camera: whose frames they are.
        frames: by index in the episode.
        clip_fps: how many of them a clip shows a second; ``None``: as many as ``settings`` sample.

    Raises:
        FrameDecodeError: one of them can't be decoded; nothing is shown then.
    """
    match settings.input:
        case "ContactSheets":
            return await _on_sheets(context, settings, camera, frames)
        case "Frames":
            return await _one_by_one(context, settings, camera, frames)
        case "VideoUrl":
            fps = settings.frames_per_second if clip_fps is None else clip_fps
            return await _as_video(context, settings, camera, frames, fps)


def shown_words(settings: PlanModule, frame_count: int, clip_fps: float | None = None) -> str:
    """What a prompt says of the ``frame_count`` frames that it shows: its ``{shown}``.

    ``clip_fps`` is as for ``show_frames``.
    """
    match settings.input:
        case "ContactSheets":
            layout = SheetLayout.of(settings)
            return (
                f"The images are {len(layout.slices(frame_count))} contact sheets with {frame_count} frames "
                f"in total, {layout.columns} columns wide, at most {layout.frames_per_sheet} frames on a "
                "sheet.\n"
                "Read the frames row by row, left to right, sheet after sheet: that is the order of time. "
                "The number in the top left corner of each frame is its time in seconds."
            )
        case "Frames":
            return (
                f"The images are {frame_count} frames in the order of time. The text before each is its time "
                "in seconds."
            )
        case "VideoUrl":
            fps = settings.frames_per_second if clip_fps is None else clip_fps
            return (
                f"The video has {frame_count} frames in the order of time, {fps:g} of them a second; times "
                "count in seconds from its start."
            )


def since_first(context: EpisodeContext, frames: Sequence[int]) -> tuple[float, ...]:
    """The times of ``frames`` from the first of them."""
    return tuple(context.seconds(frame) - context.seconds(frames[0]) for frame in frames)


async def _on_sheets(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, frames: Sequence[int]
) -> Shown:
    layout = SheetLayout.of(settings)
    times = since_first(context, frames)
    sheets: list[bytes] = []
    for now in layout.slices(len(frames)):

        def build(seen: NDArray[np.uint8], now: slice = now) -> bytes:
            return build_sheet(seen, times[now], layout)

        sheets.append(await context.look(frames[now], camera, build, layout.tile_width_pixels))
    words = shown_words(settings, len(frames))
    return Shown([image_part(sheet) for sheet in sheets], words, times, times)


async def _one_by_one(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, frames: Sequence[int]
) -> Shown:
    times = since_first(context, frames)
    parts = await timed_images(context, camera, frames, times)
    return Shown(parts, shown_words(settings, len(frames)), times, times)


async def timed_images(
    context: EpisodeContext, camera: CameraKey, frames: Sequence[int], times_seconds: Sequence[float]
) -> list[ContentPart]:
    """Each frame as an image part, after a text part with its time."""
    parts: list[ContentPart] = []
    together = context.frames_at_once(FRAMES_AT_ONCE, camera)
    for start in range(0, len(frames), together):
        now = slice(start, start + together)

        def encode(seen: NDArray[np.uint8], now: slice = now) -> list[ContentPart]:
            return to_video_block(seen, times_seconds[now])

        parts += await context.look(frames[now], camera, encode)
    return parts


async def _as_video(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, frames: Sequence[int], fps: float
) -> Shown:
    clip = await context.clip(frames, fps, camera)
    told = tuple(number / fps for number in range(len(frames)))
    words = shown_words(settings, len(frames), fps)
    return Shown([clip], words, told, since_first(context, frames), clip_fields(fps))
