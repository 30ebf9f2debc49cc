"""An episode's task: the effective one, and other ways to say it.

The effective task: the dataset's own, or, where that says nothing, the one seen in the frames.

``task_aug`` rows: other ways to ask for the same thing, from the task's text alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from annotationrun_api.prompt_media import frames_per_prompt
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.modules.base import AnyTask, EffectiveTask, EpisodeContext, TaskLine
from annotationrun_worker.modules.prompt_media import plan_samples, show_frames
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.video.timestamps import uniform_indices
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


VARIANT_PROMPTS = ("rephrasings", "task_axes")


class RephrasingsAnswer(BaseModel):
    """Answer to the prompt ``rephrasings``."""

    model_config = ConfigDict(extra="forbid")
    rephrasings: list[AnyTask]


class TaskAxesAnswer(BaseModel):
    """Answer to the prompt ``task_axes``; the order of the fields is the order of the rows."""

    model_config = ConfigDict(extra="forbid")
    synonym_paraphrase: list[AnyTask]
    omit_arm: list[AnyTask]
    omit_orientation: list[AnyTask]
    omit_grasp_method: list[AnyTask]
    combined_omissions: list[AnyTask]


@dataclass(frozen=True, slots=True)
class TaskVariant:
    """One way to say the task."""

    text: str
    request: Digest | None = None
    """The request that it comes from; ``None`` for the dataset's own."""


def variants_prompt(task: str, settings: PlanModule) -> tuple[str, dict[str, int]] | None:
    """The prompt that asks for variants of ``task``, and how many; ``None`` where none is asked."""
    if not task.strip():
        return None
    if settings.task_axes is not None:
        counts = settings.task_axes.model_dump()
        return ("task_axes", counts) if any(counts.values()) else None
    return ("rephrasings", {"count": settings.task_rephrasings}) if settings.task_rephrasings else None


async def ask_for_variants(context: EpisodeContext, settings: PlanModule) -> list[TaskVariant]:
    """The dataset's task, the effective one, then rephrasings or the five axes; distinct, in this order.

    Raises:
        AnswerError: the answer stays unusable.
    """
    known = [TaskVariant(context.episode.task), TaskVariant(context.task.text, context.task.request)]
    if not context.task.text.strip():
        return []
    match variants_prompt(context.task.text, settings):
        case ("task_axes", counts):
            known += await _ask_for_axes(context, counts)
        case ("rephrasings", counts):
            known += await _ask_for_rephrasings(context, counts["count"])
    return distinct_variants(known)


async def _ask_for_rephrasings(context: EpisodeContext, count: int) -> list[TaskVariant]:
    question = Question(
        "rephrasings", [text_part(context.prompt("rephrasings", count=count))], RephrasingsAnswer
    )

    def usable(answer: RephrasingsAnswer) -> list[str]:
        texts = said(answer.rephrasings)[:count]
        if not texts:
            raise AnswerError("there is no rephrasing in it")
        return texts

    texts, request = await context.asker.ask(question, usable)
    return [TaskVariant(text, request) for text in texts]


async def _ask_for_axes(context: EpisodeContext, counts: Mapping[str, int]) -> list[TaskVariant]:
    question = Question("task_axes", [text_part(context.prompt("task_axes", **counts))], TaskAxesAnswer)

    def usable(answer: TaskAxesAnswer) -> list[str]:
        if counts["synonym_paraphrase"] and not said(answer.synonym_paraphrase):
            raise AnswerError("synonym_paraphrase is empty; every instruction can be said in other words")
        return variants_of_axes(answer, counts)

    texts, request = await context.asker.ask(question, usable)
    return [TaskVariant(text, request) for text in texts]


def variants_of_axes(answer: TaskAxesAnswer, counts: Mapping[str, int]) -> list[str]:
    """The variants, axis after axis, of each at most as many as were asked for."""
    return [
        text for axis in TaskAxesAnswer.model_fields for text in said(getattr(answer, axis))[: counts[axis]]
    ]


def said(texts: Sequence[str]) -> list[str]:
    """The texts in one line each, the empty ones left out."""
    return [line for text in texts if (line := " ".join(text.split()))]


def distinct_variants(variants: Sequence[TaskVariant]) -> list[TaskVariant]:
    """The first of each that reads the same but for case and space around it; the order stays."""
    by_text: dict[str, TaskVariant] = {}
    for variant in variants:
        text = variant.text.strip().casefold()
        if text:
            by_text.setdefault(text, variant)
    return list(by_text.values())


def task_aug_rows(variants: Sequence[TaskVariant]) -> list[StagedRow]:
    """One ``task_aug`` row a variant, all at the first frame."""
    return [
        StagedRow(frame=0, role="user", style="task_aug", content=variant.text, request=variant.request)
        for variant in variants
    ]
