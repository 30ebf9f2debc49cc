"""The plan module: subtasks read off contact sheets, and the rows that follow from them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.context import EpisodeContext
from annotationrun_worker.annotate.prompts import fill_prompt
from annotationrun_worker.annotate.sampling import Window, plan_samples, split_windows
from annotationrun_worker.annotate.sheets import SheetLayout, build_sheets
from annotationrun_worker.annotate.spans import (
    RawSpan,
    Span,
    Subtask,
    clean_spans,
    to_subtasks,
    usable_spans,
)
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.rows import StagedRow
from annotationrun_worker.vlm.messages import ContentPart, image_part, text_part
from annotationrun_worker.vlm.request import Question

PROMPTS = ("description", "subtasks")


class DescriptionAnswer(BaseModel):
    """Answer to the prompt ``description``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    description: str


class SubtaskAnswer(BaseModel):
    """One span in the answer to the prompt ``subtasks``; times in seconds from the window's zero."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    text: str
    start: float
    end: float


class SubtasksAnswer(BaseModel):
    """Answer to the prompt ``subtasks``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    subtasks: list[SubtaskAnswer]


@dataclass(frozen=True, slots=True)
class SeenWindow:
    """A window with its sheets, ready to be asked about."""

    index: int
    window: Window
    sheets: Sequence[ContentPart]


async def annotate_plan(context: EpisodeContext, settings: PlanModule, camera: CameraKey) -> list[StagedRow]:
    """Rows of the plan module: ``task_aug``, ``subtask``, ``plan``.

    Raises:
        FrameDecodeError: a frame could not be decoded; no question was asked about it.
        AnswerError: an answer stays unusable, or no window has a usable span.
    """
    episode = context.episode
    samples = plan_samples(episode.timestamps_seconds, settings.frames_per_second)
    windows = split_windows(samples, episode.timestamps_seconds, settings.max_frames_per_prompt)
    seen = await asyncio.gather(
        *(_window_spans(context, settings, camera, index, window) for index, window in enumerate(windows))
    )
    spans = clean_spans(
        [span for spans in seen for span in spans], settings.min_subtask_seconds, settings.max_steps
    )
    subtasks = to_subtasks(spans, episode.timestamps_seconds)
    rows = task_rows(episode.task) + subtask_rows(subtasks)
    return rows + (plan_rows(subtasks) if settings.emit_plan else [])


async def _window_spans(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, index: int, window: Window
) -> list[Span]:
    sheets = await _build_window_sheets(context, settings, camera, window)
    values = _prompt_values(context.episode.task, settings, window, len(sheets))
    description = ""
    if settings.describe_first:
        question = Question(
            "description", [*sheets, text_part(fill_prompt("description", values))], DescriptionAnswer
        )
        described, _ = await context.asker.ask(question, _usable_description)
        description = f"What was seen in these frames before:\n{described}\n"
    text = fill_prompt("subtasks", {**values, "description": description})
    spans, request = await context.asker.ask(
        Question("subtasks", [*sheets, text_part(text)], SubtasksAnswer),
        lambda answer: _usable_raw_spans(answer, window),
    )
    return usable_spans(spans, window, index, request)


async def _build_window_sheets(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, window: Window
) -> list[ContentPart]:
    """The window's sheets; describe and segment send these very bytes."""
    frames = await context.decode(window.frames, camera)
    times = [
        float(context.episode.timestamps_seconds[frame]) - window.zero_seconds for frame in window.frames
    ]
    layout = SheetLayout(
        columns=settings.sheet_columns,
        frames_per_sheet=settings.frames_per_sheet,
        tile_width_pixels=settings.tile_width,
        jpeg_quality=settings.sheet_jpeg_quality,
    )
    return [image_part(jpeg) for jpeg in await asyncio.to_thread(build_sheets, frames, times, layout)]


def _prompt_values(task: str, settings: PlanModule, window: Window, sheet_count: int) -> Mapping[str, object]:
    return {
        "task": task,
        "sheet_count": sheet_count,
        "frame_count": len(window.frames),
        "columns": settings.sheet_columns,
        "frames_per_sheet": settings.frames_per_sheet,
        "window_seconds": f"{window.seconds:.2f}",
        "min_subtask_seconds": settings.min_subtask_seconds,
        "max_steps": settings.max_steps,
    }


def _usable_description(answer: DescriptionAnswer) -> str:
    if not answer.description.strip():
        raise AnswerError("the description is empty")
    return answer.description.strip()


def _usable_raw_spans(answer: SubtasksAnswer, window: Window) -> list[RawSpan]:
    spans = [RawSpan(span.text, span.start, span.end) for span in answer.subtasks]
    if not any(span.text.strip() for span in spans):
        raise AnswerError("it has no subtask with a text")
    if all(min(span.start, span.end) > window.seconds for span in spans):
        raise AnswerError(f"every subtask starts after the last frame, at {window.seconds:.2f} s")
    return spans


def task_rows(task: str) -> list[StagedRow]:
    """``task_aug`` rows at the first frame: the dataset's own task, so that it stays in the rotation."""
    return [StagedRow(frame=0, role="user", style="task_aug", content=task)] if task.strip() else []


def subtask_rows(subtasks: Sequence[Subtask]) -> list[StagedRow]:
    """One ``subtask`` row at the first frame of each."""
    return [
        StagedRow(frame=s.frame, role="assistant", style="subtask", content=s.text, request=s.request)
        for s in subtasks
    ]


def plan_rows(subtasks: Sequence[Subtask]) -> list[StagedRow]:
    """At each subtask's start the numbered list of the subtasks still to do, itself included."""
    return [
        StagedRow(
            frame=subtask.frame,
            role="assistant",
            style="plan",
            content="\n".join(f"{n}. {s.text}" for n, s in enumerate(subtasks[done:], start=1)),
        )
        for done, subtask in enumerate(subtasks)
    ]
