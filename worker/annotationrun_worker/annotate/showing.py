"""How the frames of a prompt are put before the model: contact sheets, single frames, or a video.

Whichever it is, the times that the model is told count from the first frame shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.spec_modules import ModulesSpec, PlanModule
from annotationrun_worker.annotate.context import EpisodeContext
from annotationrun_worker.annotate.sheets import SheetLayout, build_sheet
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.vlm.messages import ContentPart, clip_fields, image_part, to_video_block

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
