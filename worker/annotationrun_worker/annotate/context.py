"""What every module of an episode is given."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from annotationrun_worker.dataset.records import CameraKey, EpisodeRecord
from annotationrun_worker.frames.provider import FrameProvider
from annotationrun_worker.vlm.ask import Asker


@dataclass(frozen=True, slots=True)
class EpisodeContext:
    """One episode, its frames, and a way to ask."""

    episode: EpisodeRecord
    frames: FrameProvider
    asker: Asker
    seed: int
    fingerprint: str

    async def decode(self, frame_indices: Sequence[int], camera: CameraKey) -> torch.Tensor:
        """The frames, uint8 (n, 3, height, width) RGB, in order; decoded off the event loop."""
        return await asyncio.to_thread(self.frames.frames_by_index, self.episode, frame_indices, camera)

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
