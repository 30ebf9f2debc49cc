"""Which frames the modules look at: pure, deterministic, by index into the episode's frames."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.frames.timestamps import nearest


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
