"""Seeded relabel: each subtask is looked at again, with its neighbours, its first label as strong prior."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.answer_text import LabelLine
from annotationrun_worker.annotate.context import EpisodeContext
from annotationrun_worker.annotate.showing import show_frames
from annotationrun_worker.annotate.spans import Subtask
from annotationrun_worker.annotate.together import finish_all
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.frames.timestamps import uniform_indices
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

PROMPTS = ("label",)


class LabelAnswer(BaseModel):
    """Answer to the prompt ``label``."""

    model_config = ConfigDict(extra="forbid")
    label: LabelLine


def relabel_frames(starts: Sequence[int], frame_count: int, place: int, each: int) -> list[int]:
    """At most ``each`` frames of the subtask before ``place``, of it, and of the one after it.

    Those of a subtask are spread evenly over [its start, the next one's start), both ends included.
    """
    ends = [*starts[1:], frame_count]
    return [
        starts[near] + step
        for near in range(max(place - 1, 0), min(place + 2, len(starts)))
        for step in uniform_indices(ends[near] - starts[near], each).tolist()
    ]


async def relabel_subtasks(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, subtasks: Sequence[Subtask]
) -> list[Subtask]:
    """The same subtasks, each with the label and the request of its second look.

    Raises:
        FrameDecodeError: a frame could not be decoded.
        AnswerError: an answer stays unusable.
    """
    looks = (_relabel(context, settings, camera, subtasks, place) for place in range(len(subtasks)))
    return await finish_all(looks)


async def _relabel(
    context: EpisodeContext,
    settings: PlanModule,
    camera: CameraKey,
    subtasks: Sequence[Subtask],
    place: int,
) -> Subtask:
    frame_count = context.episode.frame_count
    starts = [subtask.frame for subtask in subtasks]
    frames = relabel_frames(starts, frame_count, place, settings.relabel_frames)
    shown = await show_frames(context, settings, camera, frames)
    end = starts[place + 1] if place + 1 < len(starts) else frame_count - 1

    def since_first(frame: int) -> str:
        return f"{shown.to_told_seconds(context.seconds(frame) - context.seconds(frames[0])):.2f}"

    text = context.prompt(
        "label",
        shown=shown.words,
        label=subtasks[place].text,
        window_seconds=since_first(frames[-1]),
        start_seconds=since_first(starts[place]),
        end_seconds=since_first(end),
    )
    label, request = await context.asker.ask(
        Question("label", [*shown.parts, text_part(text)], LabelAnswer, shown.body),
        lambda answer: answer.label,
    )
    return Subtask(label, starts[place], request)
