"""How many pictures and clips one prompt of a run holds at most, by the settings of its modules alone."""

from dataclasses import dataclass
from typing import Self

from annotationrun_api.spec_modules import ModulesSpec, PlanModule

SUBTASKS_LOOKED_AT = 3
"""By ``seededRelabel``, which shows a subtask with the one before and the one after it."""


@dataclass(frozen=True, slots=True)
class PromptMedia:
    """Bounds of one prompt. An episode that is shorter than the settings allow for needs less."""

    images: int
    videos: int

    @classmethod
    def of(cls, modules: ModulesSpec) -> Self:
        """Of the prompts of these modules, and of the checks of the model server before them."""
        images, videos = 0, 0
        if modules.plan is not None:
            images = images_of_frames(modules.plan, _frames_shown(modules.plan))
            videos = int(modules.plan.input == "VideoUrl")
        if modules.interjections is not None and modules.interjections.max_per_episode:
            images = max(images, modules.interjections.window_frames)
        if modules.vqa is not None:
            images = max(images, 1)
        return cls(images, videos)


def frames_per_prompt(plan: PlanModule) -> int:
    """How many frames of a window go into one prompt at most."""
    if plan.input == "VideoUrl":
        return min(plan.max_frames_per_prompt, plan.max_video_frames)
    return plan.max_frames_per_prompt


def images_of_frames(plan: PlanModule, frame_count: int) -> int:
    """How many images show so many frames: contact sheets, or each frame one; none where they are a clip."""
    match plan.input:
        case "ContactSheets":
            return -(-frame_count // plan.frames_per_sheet)
        case "Frames":
            return frame_count
        case "VideoUrl":
            return 0


def _frames_shown(plan: PlanModule) -> int:
    relabel = SUBTASKS_LOOKED_AT * plan.relabel_frames if plan.seeded_relabel else 0
    return max(frames_per_prompt(plan), relabel)
