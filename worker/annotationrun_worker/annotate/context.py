"""What every module of an episode is given."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.annotate.looks import Looks
from annotationrun_worker.annotate.prompts import Prompts
from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord
from annotationrun_worker.frames.provider import BATCH_BYTES, FrameProvider
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.messages import ContentPart, to_video_url_block

Made = TypeVar("Made")

NO_TASK = "not given"
"""What the prompts name where the dataset has no task and none is derived."""


@dataclass(frozen=True, slots=True)
class EffectiveTask:
    """The task that all prompts of an episode name: the dataset's, or the one seen in the frames."""

    text: str
    """May be empty: the dataset has none, and none was to be derived."""
    request: Digest | None = None
    """The request that it was derived by; ``None`` for the dataset's own."""


@dataclass(frozen=True, slots=True)
class SubtaskStart:
    """A subtask as the modules that build on it know it."""

    frame: int
    """Its first frame, 0-based in the episode."""
    text: str


@dataclass(frozen=True, slots=True)
class EpisodeContext:
    """One episode, its frames, what is known of it, and a way to ask."""

    episode: EpisodeRecord
    frames: FrameProvider
    asker: Asker
    seed: int
    fingerprint: str
    task: EffectiveTask
    prompts: Prompts = field(default_factory=Prompts)
    subtasks: Sequence[SubtaskStart] = ()
    """For modules that build on subtasks, in order; none where there are none."""
    looking: Looks = field(default_factory=Looks)
    """Shared by all episodes of a run."""

    async def look(
        self,
        frame_indices: Sequence[int],
        camera: CameraKey,
        make: Callable[[NDArray[np.uint8]], Made],
        tile_width_pixels: int | None = None,
    ) -> Made:
        """Decode frames, and make of them what goes into a prompt: the pixels are gone when this returns.

        ``make`` gets them as uint8 (n, height, width, 3) RGB, in order, or tiles of that width.
        It runs in a thread, as does the decoding. Only so many looks are under way at once, and so many bytes
        of frames in memory (see ``Looks``), however many episodes are.

        Raises:
            FrameDecodeError: a frame can't be decoded; ``make`` does not run then.
        """

        def decode_and_make() -> Made:
            if tile_width_pixels is None:
                return make(self.frames.pictures_by_index(self.episode, frame_indices, camera))
            return make(self.frames.tiles_by_index(self.episode, frame_indices, tile_width_pixels, camera))

        frame_bytes = self.frames.frame_bytes(camera, tile_width_pixels)
        async with self.looking.held(frame_bytes * len(frame_indices)):
            return await asyncio.to_thread(decode_and_make)

    def frames_at_once(self, frames: int, camera: CameraKey) -> int:
        """How many whole frames are to be looked at together: ``frames``, or fewer of a large camera."""
        return self.looking.frames_at_once(frames, self.frames.frame_bytes(camera))

    async def clip(self, frame_indices: Sequence[int], fps: float, camera: CameraKey) -> ContentPart:
        """The frames (increasing) as a video part, ``fps`` of them a second.

        Raises:
            FrameDecodeError: a frame can't be decoded.
        """

        def make() -> ContentPart:
            return to_video_url_block(self.frames.frames_clip_path(self.episode, frame_indices, fps, camera))

        # They are decoded and encoded some at a time.
        size_bytes = max(BATCH_BYTES, self.frames.frame_bytes(camera))
        async with self.looking.held(size_bytes):
            return await asyncio.to_thread(make)

    def prompt(self, name: str, **values: object) -> str:
        """The prompt ``name``, filled in with ``values`` and the effective task."""
        return self.prompts.fill(name, {"task": self.task.text.strip() or NO_TASK, **values})

    def seconds(self, frame: int) -> float:
        """The time of a frame."""
        return float(self.episode.timestamps_seconds[frame])

    def random(self, module: str) -> random.Random:
        """The module's own generator: the same for the same content, whatever the episode's number."""
        return random.Random(f"{self.seed}:{self.fingerprint}:{module}")  # noqa: S311  a draw, not a secret


@dataclass(frozen=True, slots=True)
class Hole:
    """A question whose answer stayed unusable; the episode goes on without it."""

    frame: int
    camera: str | None
    kind: str
    cause: str
