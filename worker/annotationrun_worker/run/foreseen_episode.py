"""An episode as far as its metadata tell: when its frames are taken, and what will likely come of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.context import NO_TASK, SubtaskStart
from annotationrun_worker.annotate.interjections import find_boundaries
from annotationrun_worker.annotate.sampling import Window, plan_samples, split_windows, vqa_frames
from annotationrun_worker.annotate.task import has_to_derive
from annotationrun_worker.dataset.episodes import EpisodeSummary
from annotationrun_worker.dataset.records import CameraKey, Features
from annotationrun_worker.errors import UnknownCameraError
from annotationrun_worker.frames.null_provider import raise_no_cameras
from annotationrun_worker.frames.timestamps import nearest

SECONDS_PER_SUBTASK: Final = 3.0
"""Short, as tasks of a robot arm go: rather some requests too many than a budget that does not hold."""

USUAL_TASK = "Put the red cup on the tray"
USUAL_SUBTASK = "pick up the red cup"
USUAL_MEMORY = "I picked up the red cup from the table and put it on the tray."
"""Texts of usual length, in place of those that the model will write."""


@dataclass(frozen=True, slots=True)
class ForeseenEpisode:
    """An episode as far as its metadata tell."""

    spec: RunSpec
    features: Features
    own_task: str
    timestamps_seconds: NDArray[np.float32]
    cameras: Sequence[CameraKey]
    """The default one first."""

    @classmethod
    def of(cls, spec: RunSpec, episode: EpisodeSummary, fps: float, features: Features) -> Self:
        """What the metadata of ``episode`` tell of it.

        Raises:
            NoCamerasError, UnknownCameraError: there is nothing to look at.
        """
        timestamps = (np.arange(episode.length) / fps).astype(np.float32)
        return cls(spec, features, episode.task, timestamps, all_cameras(spec, features))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the default camera."""
        return self.features.camera_sizes[self.cameras[0]]

    @property
    def derives_task(self) -> bool:
        """Whether the model is asked for the task."""
        plan = self.spec.modules.plan
        return plan is not None and has_to_derive(self.own_task, plan)

    @property
    def task(self) -> str:
        """The effective one; a usual one where it is to be derived."""
        return USUAL_TASK if self.derives_task else self.own_task.strip()

    @property
    def values(self) -> dict[str, object]:
        """What all prompts of the episode are filled with."""
        return {"task": self.task or NO_TASK}

    @property
    def plan(self) -> PlanModule:
        """Settings by which there are subtasks: the default ones where the dataset's rows are built on."""
        return self.spec.modules.plan or PlanModule()

    def windows(self) -> list[Window]:
        """Those of the plan module."""
        samples = plan_samples(self.timestamps_seconds, self.plan.frames_per_second)
        return split_windows(samples, self.timestamps_seconds, frames_per_prompt(self.plan))

    def subtasks(self, windows: Sequence[Window]) -> list[SubtaskStart]:
        """As many as are assumed, spread evenly over their windows."""
        starts = [
            window.zero_seconds + place * window.seconds / count
            for window in windows
            for count in [subtask_count(window, self.plan)]
            for place in range(count)
        ]
        frames = sorted(set(nearest(self.timestamps_seconds, starts).tolist()))
        return [SubtaskStart(frame, USUAL_SUBTASK) for frame in frames]

    def interjections(self, windows: Sequence[Window]) -> list[int]:
        """Frames of the boundaries at which somebody may speak, the first of those there are."""
        settings = self.spec.modules.interjections
        if settings is None:
            return []
        found = find_boundaries(self.subtasks(windows), self.timestamps_seconds, settings.min_time_seconds)
        return [boundary.frame for boundary in found[: settings.max_per_episode]]

    def vqa_questions(self) -> Mapping[CameraKey, int]:
        """How many each camera gets."""
        settings = self.spec.modules.vqa
        if settings is None:
            return {}
        frames = vqa_frames(self.timestamps_seconds, settings.emission_hz, settings.frames_per_tick)
        return {camera: len(frames) for camera in self.cameras[: None if settings.cameras == "All" else 1]}


def subtask_count(window: Window, settings: PlanModule) -> int:
    """How many subtasks are assumed in a window."""
    count = min(round(window.seconds / SECONDS_PER_SUBTASK), settings.max_steps)
    if settings.min_subtask_seconds > 0:
        count = min(count, math.floor(window.seconds / settings.min_subtask_seconds))
    return max(1, count)


def cameras_looked_at(spec: RunSpec, features: Features) -> tuple[CameraKey, ...]:
    """The cameras that a module of the run looks at, the default one first.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
    """
    vqa = spec.modules.vqa
    return all_cameras(spec, features)[: None if vqa is not None and vqa.cameras == "All" else 1]


def all_cameras(spec: RunSpec, features: Features) -> tuple[CameraKey, ...]:
    """All cameras, the default one first.

    Raises:
        NoCamerasError, UnknownCameraError: there is nothing to look at.
    """
    if not features.cameras:
        raise_no_cameras()
    default = CameraKey(spec.frames.default_camera or features.cameras[0])
    if default not in features.cameras:
        raise UnknownCameraError(
            f"the dataset has no camera {default!r}; its cameras are {list(features.cameras)}; correct "
            "spec.frames.defaultCamera"
        )
    return default, *(camera for camera in features.cameras if camera != default)
