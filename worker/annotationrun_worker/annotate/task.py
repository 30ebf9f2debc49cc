"""The effective task: the dataset's own, or, where that says nothing, the one seen in the frames."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.answer_text import TaskLine
from annotationrun_worker.annotate.context import EffectiveTask, EpisodeContext
from annotationrun_worker.annotate.sampling import plan_samples
from annotationrun_worker.annotate.showing import show_frames
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.frames.timestamps import uniform_indices
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

PROMPTS = ("task",)
PLACEHOLDERS: Final = frozenset(
    {"debug", "test", "tbd", "todo", "n/a", "na", "untitled", "unnamed", "default", "placeholder"}
)
"""Tasks that nobody ever set a robot."""


class TaskAnswer(BaseModel):
    """Answer to the prompt ``task``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    task: TaskLine


def is_short(task: str, min_words: int) -> bool:
    """Whether ``task`` is empty, a placeholder, or of fewer than ``min_words`` words."""
    words = task.casefold().split()
    return not words or " ".join(words).rstrip(".!?") in PLACEHOLDERS or len(words) < min_words


def has_to_derive(task: str, settings: PlanModule) -> bool:
    """Whether the model is asked for the task (``deriveTask``)."""
    match settings.derive_task:
        case "Never":
            return False
        case "Always":
            return True
        case "IfShort":
            return is_short(task, settings.derive_task_min_words)


def deciding_settings(settings: PlanModule) -> Mapping[str, Any]:
    """Those settings of the plan module that a derived task depends on; JSON values."""
    names = {
        "input",
        "frames_per_second",
        "max_frames_per_prompt",
        "max_video_frames",
        "sheet_columns",
        "frames_per_sheet",
        "tile_width",
        "sheet_jpeg_quality",
    }
    return settings.model_dump(mode="json", by_alias=True, include=names)


async def derive_task(context: EpisodeContext, settings: PlanModule, camera: CameraKey) -> EffectiveTask:
    """Ask what the episode shows: the plan module's samples, evenly thinned to those of one prompt.

    Raises:
        FrameDecodeError: a frame could not be decoded; nothing was asked.
        AnswerError: the answer stays unusable.
    """
    samples = plan_samples(context.episode.timestamps_seconds, settings.frames_per_second)
    frames = [samples[place] for place in uniform_indices(len(samples), frames_per_prompt(settings))]
    fps = settings.frames_per_second
    if len(frames) < len(samples):  # a clip of thinned frames lasts as long as the episode all the same
        fps = (len(frames) - 1) / (context.seconds(frames[-1]) - context.seconds(frames[0]))
    shown = await show_frames(context, settings, camera, frames, fps)
    text = context.prompt("task", shown=shown.words)
    task, request = await context.asker.ask(
        Question("task", [*shown.parts, text_part(text)], TaskAnswer, shown.body), _usable_task
    )
    return EffectiveTask(task, request)


def _usable_task(answer: TaskAnswer) -> str:
    if is_short(answer.task, min_words=1):
        raise AnswerError(f"the task {answer.task!r} names nothing that was done")
    return answer.task
