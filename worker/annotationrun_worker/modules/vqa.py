"""The vqa module: one question and its answer for each anchored frame and camera."""

import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.spec_modules import QuestionType, VqaModule
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.language.rows import StagedRow
from annotationrun_worker.modules.base import EpisodeContext, UnansweredQuestion, finish_batches
from annotationrun_worker.modules.coordinates import COORDINATES
from annotationrun_worker.modules.prompt_media import FRAMES_AT_ONCE, vqa_frames
from annotationrun_worker.modules.vqa_answers import (
    ANSWER_TYPES,
    CoordinateScale,
    ImageSpace,
    to_answer,
)
from annotationrun_worker.vlm.messages import ContentPart, text_part, to_image_blocks
from annotationrun_worker.vlm.request import Question

PROMPTS = tuple(f"vqa_{question_type}" for question_type in ANSWER_TYPES)


def draw_question_types(
    context: EpisodeContext, frames: Sequence[int], types: Sequence[QuestionType]
) -> dict[int, QuestionType]:
    """One type per anchored frame, the same for all cameras, drawn before any I/O."""
    generator = context.random("vqa")
    return {frame: generator.choice(types) for frame in frames}


async def annotate_vqa(
    context: EpisodeContext, settings: VqaModule, cameras: Sequence[CameraKey], scale: CoordinateScale
) -> tuple[list[StagedRow], list[UnansweredQuestion]]:
    """Rows of the vqa module, and the questions that stayed without a usable answer.

    Raises:
        FrameDecodeError: a frame could not be decoded; no question was asked about it, nor about later ones.
    """
    frames = vqa_frames(context.episode.timestamps_seconds, settings.emission_hz, settings.frames_per_tick)
    types = draw_question_types(context, frames, settings.question_types)

    async def questions() -> AsyncIterator[list[Coroutine[Any, Any, list[StagedRow] | UnansweredQuestion]]]:
        together = min(context.frames_at_once(FRAMES_AT_ONCE, camera) for camera in cameras)
        for start in range(0, len(frames), together):
            chunk = frames[start : start + together]
            for camera in cameras:
                pictures = await context.look(chunk, camera, _encode)
                yield [
                    _ask_pair(context, types[frame], frame, camera, picture, scale)
                    for frame, picture in zip(chunk, pictures, strict=True)
                ]

    outcomes = await finish_batches(questions(), context.asker.client.requests_at_hand)
    rows = [row for outcome in outcomes if not isinstance(outcome, UnansweredQuestion) for row in outcome]
    return rows, [outcome for outcome in outcomes if isinstance(outcome, UnansweredQuestion)]


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A frame as it is sent."""

    part: ContentPart
    width_pixels: int
    height_pixels: int


def _encode(frames: NDArray[np.uint8]) -> list[EncodedPicture]:
    _, height, width, _ = frames.shape
    return [EncodedPicture(part, width, height) for part in to_image_blocks(frames)]


async def _ask_pair(
    context: EpisodeContext,
    question_type: QuestionType,
    frame: int,
    camera: CameraKey,
    picture: EncodedPicture,
    scale: CoordinateScale,
) -> list[StagedRow] | UnansweredQuestion:
    space = ImageSpace(picture.width_pixels, picture.height_pixels, scale)
    kind = f"vqa_{question_type}"
    text = context.prompt(
        kind,
        camera=camera,
        width=picture.width_pixels,
        height=picture.height_pixels,
        coordinates=COORDINATES[scale],
    )
    question = Question(kind, [text_part(text), picture.part], ANSWER_TYPES[question_type], can_wait=True)
    try:
        (asked, answer), request = await context.asker.ask(
            question, lambda pair: (pair.question, to_answer(pair, space))
        )
    except AnswerError as error:
        return UnansweredQuestion(frame=frame, camera=camera, kind=kind, cause=str(error))
    said = json.dumps(answer, sort_keys=True, ensure_ascii=False)
    return [
        StagedRow(frame=frame, role=role, style="vqa", content=content, camera=camera, request=request)
        for role, content in (("user", asked), ("assistant", said))
    ]
