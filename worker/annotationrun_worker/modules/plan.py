"""The plan module: subtasks, the plan, and the memory of what was done.

``memory`` rows: what the robot has done so far, one subtask after the other, from their texts alone.

It builds on subtasks that were seen, and looks at no frame itself.

The plan module: subtasks read off contact sheets, and the rows that follow from them.
"""

from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.modules.base import AnyLabel, Description, EpisodeContext, MemoryLine, finish_all
from annotationrun_worker.modules.prompt_media import Shown, Window, plan_samples, show_frames, split_windows
from annotationrun_worker.modules.segments import (
    RELABEL_PROMPTS,
    RawSpan,
    Span,
    Subtask,
    clean_spans,
    is_usable,
    lies_outside,
    relabel_subtasks,
    to_subtasks,
    usable_spans,
)
from annotationrun_worker.modules.task import VARIANT_PROMPTS, ask_for_variants, task_aug_rows
from annotationrun_worker.vlm.json_extraction import quote
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

MEMORY_PROMPTS = ("memory",)


class MemoryAnswer(BaseModel):
    """Answer to the prompt ``memory``."""

    model_config = ConfigDict(extra="forbid")
    memory: MemoryLine


async def remember_subtasks(context: EpisodeContext, subtasks: Sequence[Subtask]) -> list[StagedRow]:
    """A ``memory`` row at the start of each subtask but the first; each is made from the one before it.

    Raises:
        AnswerError: an answer stays unusable.
    """
    rows: list[StagedRow] = []
    memory = ""
    for finished, following in pairwise(subtasks):
        text = context.prompt("memory", finished=finished.text, memory=memory)
        memory, request = await context.asker.ask(
            Question("memory", [text_part(text)], MemoryAnswer), lambda answer: answer.memory
        )
        rows.append(
            StagedRow(
                frame=following.frame, role="assistant", style="memory", content=memory, request=request
            )
        )
    return rows


PROMPTS = ("description", "subtasks", *VARIANT_PROMPTS, *RELABEL_PROMPTS, *MEMORY_PROMPTS)


class DescriptionAnswer(BaseModel):
    """Answer to the prompt ``description``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    description: Description


class SubtaskAnswer(BaseModel):
    """One span in the answer to the prompt ``subtasks``; times in seconds from the window's zero."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    text: AnyLabel
    start: float
    end: float


class SubtasksAnswer(BaseModel):
    """Answer to the prompt ``subtasks``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    subtasks: list[SubtaskAnswer]


async def annotate_plan(context: EpisodeContext, settings: PlanModule, camera: CameraKey) -> list[StagedRow]:
    """Rows of the plan module: ``task_aug``, ``subtask``, ``plan``, ``memory``.

    Raises:
        FrameDecodeError: a frame could not be decoded; no question was asked about it.
        AnswerError: an answer stays unusable, or no window has a usable span.
    """
    task_aug, seen = await finish_all(
        [_task_aug(context, settings), _subtasks_and_what_follows(context, settings, camera)]
    )
    return task_aug + seen


async def _task_aug(context: EpisodeContext, settings: PlanModule) -> list[StagedRow]:
    return task_aug_rows(await ask_for_variants(context, settings))


async def _subtasks_and_what_follows(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey
) -> list[StagedRow]:
    subtasks = await _see_subtasks(context, settings, camera)
    rows = subtask_rows(subtasks)
    if settings.emit_plan:
        rows += plan_rows(subtasks)
    if settings.emit_memory:
        rows += await remember_subtasks(context, subtasks)
    return rows


async def _see_subtasks(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey
) -> Sequence[Subtask]:
    timestamps = context.episode.timestamps_seconds
    samples = plan_samples(timestamps, settings.frames_per_second)
    windows = split_windows(samples, timestamps, frames_per_prompt(settings))
    seen = await finish_all(
        _window_spans(context, settings, camera, index, window) for index, window in enumerate(windows)
    )
    spans = clean_spans(
        [span for spans in seen for span in spans], settings.min_subtask_seconds, settings.max_steps
    )
    subtasks = to_subtasks(spans, timestamps)
    if settings.seeded_relabel:
        return await relabel_subtasks(context, settings, camera, subtasks)
    return subtasks


async def _window_spans(
    context: EpisodeContext, settings: PlanModule, camera: CameraKey, index: int, window: Window
) -> list[Span]:
    # describe and segment send these very bytes
    shown = await show_frames(context, settings, camera, window.frames)
    description = ""
    if settings.describe_first:
        text = context.prompt("description", shown=shown.words)
        question = Question("description", [*shown.parts, text_part(text)], DescriptionAnswer, shown.body)
        described, _ = await context.asker.ask(question, lambda answer: answer.description)
        description = f"What was seen in these frames before:\n{described}\n"
    text = context.prompt(
        "subtasks",
        shown=shown.words,
        description=description,
        window_seconds=f"{shown.told_seconds[-1]:.2f}",
        min_subtask_seconds=settings.min_subtask_seconds,
        max_steps=settings.max_steps,
    )
    spans, request = await context.asker.ask(
        Question("subtasks", [*shown.parts, text_part(text)], SubtasksAnswer, shown.body),
        lambda answer: _usable_raw_spans(answer, window, shown),
    )
    return usable_spans(spans, window, index, request)


def _usable_raw_spans(answer: SubtasksAnswer, window: Window, shown: Shown) -> list[RawSpan]:
    """The model's spans in true time from the window's zero; at least one speaks of the window.

    Raises:
        AnswerError: none does, or one lies outside of the window: then the unit or the zero of all times is
            another one, and a span that happens to fit is as wrong as the rest.
    """
    spans = [
        RawSpan(span.text, shown.to_true_seconds(span.start), shown.to_true_seconds(span.end))
        for span in answer.subtasks
    ]
    told_seconds = f"{shown.told_seconds[-1]:.2f}"
    for said, span in zip(answer.subtasks, spans, strict=True):
        if lies_outside(span, window):
            raise AnswerError(
                f"the subtask {quote(said.text)} has start {said.start:g} and end {said.end:g}, but what is "
                f"shown lasts {told_seconds} seconds: give all times in seconds (not milliseconds, not frame "
                f"numbers), counted from the first frame shown, from 0.00 to {told_seconds}"
            )
    if not any(is_usable(span, window) for span in spans):
        raise AnswerError(f"it has no subtask with a text and a time from 0.00 to {told_seconds} s")
    return spans


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
