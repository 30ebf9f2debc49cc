"""The interjections module: what a person says while the robot works, and what the robot says to that."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from annotationrun_api.spec_modules import InterjectionsModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.language.rows import StagedRow, say_call
from annotationrun_worker.modules.base import (
    EpisodeContext,
    SentenceLine,
    SubtaskStart,
    UnansweredQuestion,
    finish_all,
)
from annotationrun_worker.modules.prompt_media import timed_images
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.video.timestamps import nearest
from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Question

PROMPTS = ("speech", "interjection")


class SpeechAnswer(BaseModel):
    """Answer to the prompt ``speech``."""

    model_config = ConfigDict(extra="forbid")
    text: SentenceLine


class InterjectionAnswer(BaseModel):
    """Answer to the prompt ``interjection``."""

    model_config = ConfigDict(extra="forbid")
    interjection: SentenceLine
    speech: SentenceLine


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where one subtask ends and the next begins."""

    frame: int
    """The first frame of the next one."""
    finished: str
    following: str


async def annotate_interjections(
    context: EpisodeContext, settings: InterjectionsModule, camera: CameraKey
) -> tuple[list[StagedRow], list[UnansweredQuestion]]:
    """Interjection and speech rows, and the questions that stayed without a usable answer.

    Without subtasks in ``context`` there is only the speech at the first frame.

    Raises:
        FrameDecodeError: a frame could not be decoded; nothing was asked about it.
    """
    candidates = find_boundaries(
        context.subtasks, context.episode.timestamps_seconds, settings.min_time_seconds
    )
    count = min(settings.max_per_episode, len(candidates))
    boundaries = context.random("interjections").sample(candidates, count)
    outcomes = await finish_all(
        [_acknowledge(context)] + [_interject(context, settings, camera, boundary) for boundary in boundaries]
    )
    rows = [row for outcome in outcomes if not isinstance(outcome, UnansweredQuestion) for row in outcome]
    return rows, [outcome for outcome in outcomes if isinstance(outcome, UnansweredQuestion)]


def find_boundaries(
    subtasks: Sequence[SubtaskStart], timestamps_seconds: NDArray[np.float32], min_time_seconds: float
) -> list[Boundary]:
    """Where subtasks 2..n begin, in order, those before ``min_time_seconds`` of the episode left out."""
    earliest = float(timestamps_seconds[0]) + min_time_seconds - 1e-6
    return [
        Boundary(following.frame, finished.text, following.text)
        for finished, following in pairwise(subtasks)
        if float(timestamps_seconds[following.frame]) >= earliest
    ]


def window_frames(
    timestamps_seconds: NDArray[np.float32], frame: int, window_seconds: float, count: int
) -> list[int]:
    """At most ``count`` distinct frames spread evenly over the window around ``frame``, within the episode.

    The window reaches half of ``window_seconds`` to each side; one frame is the boundary's own.
    """
    middle = float(timestamps_seconds[frame])
    reach = window_seconds / 2 if count > 1 else 0.0
    asked = np.linspace(middle - reach, middle + reach, count).tolist()
    return sorted(set(nearest(timestamps_seconds, asked).tolist()))


async def _acknowledge(context: EpisodeContext) -> list[StagedRow] | UnansweredQuestion:
    question = Question("speech", [text_part(context.prompt("speech"))], SpeechAnswer)
    try:
        text, request = await context.asker.ask(question, lambda answer: answer.text)
    except AnswerError as error:
        return UnansweredQuestion(frame=0, camera=None, kind="speech", cause=str(error))
    return [speech_row(0, text, request)]


async def _interject(
    context: EpisodeContext, settings: InterjectionsModule, camera: CameraKey, boundary: Boundary
) -> list[StagedRow] | UnansweredQuestion:
    frame = boundary.frame
    shown = window_frames(
        context.episode.timestamps_seconds, frame, settings.window_seconds, settings.window_frames
    )
    parts = await timed_images(context, camera, shown, [context.seconds(time) for time in shown])
    text = context.prompt(
        "interjection",
        finished=boundary.finished,
        next=boundary.following,
        seconds=f"{context.seconds(frame):.2f}",
    )
    question = Question("interjection", [text_part(text), *parts], InterjectionAnswer)
    try:
        (interjection, speech), request = await context.asker.ask(
            question,
            lambda answer: (answer.interjection, answer.speech),
        )
    except AnswerError as error:
        return UnansweredQuestion(frame=frame, camera=camera, kind="interjection", cause=str(error))
    asked = StagedRow(frame=frame, role="user", style="interjection", content=interjection, request=request)
    return [asked, speech_row(frame, speech, request)]


def speech_row(frame: int, text: str, request: Digest) -> StagedRow:
    """What the robot says: a row without style and content, whose one tool call is ``say``."""
    return StagedRow(
        frame=frame,
        role="assistant",
        style=None,
        content=None,
        tool_calls=(say_call(text),),
        request=request,
    )
