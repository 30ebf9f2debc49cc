"""The vqa module: one question and its answer for each anchored frame and camera."""

import json
from collections.abc import Sequence

import torch

from annotationrun_api.spec_modules import QuestionType, VqaModule
from annotationrun_worker.annotate.context import EpisodeContext, Hole
from annotationrun_worker.annotate.coordinate_scale import COORDINATES
from annotationrun_worker.annotate.sampling import vqa_frames
from annotationrun_worker.annotate.together import finish_all
from annotationrun_worker.annotate.vqa_answers import (
    ANSWER_TYPES,
    CoordinateScale,
    ImageSpace,
    to_answer,
)
from annotationrun_worker.dataset.records import CameraKey
from annotationrun_worker.errors import AnswerError
from annotationrun_worker.rows import StagedRow
from annotationrun_worker.vlm.messages import image_part, text_part, to_jpeg, to_picture
from annotationrun_worker.vlm.request import Question

PROMPTS = tuple(f"vqa_{question_type}" for question_type in ANSWER_TYPES)
JPEG_QUALITY = 90
"""Of the full frame; boxes need its edges."""
DECODE_FRAMES = 32
"""Frames decoded at a time, so that memory does not grow with the episode."""


def draw_question_types(
    context: EpisodeContext, frames: Sequence[int], types: Sequence[QuestionType]
) -> dict[int, QuestionType]:
    """One type per anchored frame, the same for all cameras, drawn before any I/O."""
    generator = context.random("vqa")
    return {frame: generator.choice(types) for frame in frames}


async def annotate_vqa(
    context: EpisodeContext, settings: VqaModule, cameras: Sequence[CameraKey], scale: CoordinateScale
) -> tuple[list[StagedRow], list[Hole]]:
    """Rows of the vqa module, and the questions that stayed without a usable answer.

    Raises:
        FrameDecodeError: a frame could not be decoded; no question was asked about it.
    """
    frames = vqa_frames(context.episode.timestamps_seconds, settings.emission_hz, settings.frames_per_tick)
    types = draw_question_types(context, frames, settings.question_types)
    outcomes: list[list[StagedRow] | Hole] = []
    for start in range(0, len(frames), DECODE_FRAMES):
        chunk = frames[start : start + DECODE_FRAMES]
        for camera in cameras:
            pictures = await context.decode(chunk, camera)
            questions = (
                _ask_pair(context, types[frame], frame, camera, picture, scale)
                for frame, picture in zip(chunk, pictures, strict=True)
            )
            outcomes += await finish_all(questions)
    rows = [row for outcome in outcomes if not isinstance(outcome, Hole) for row in outcome]
    return rows, [outcome for outcome in outcomes if isinstance(outcome, Hole)]


async def _ask_pair(
    context: EpisodeContext,
    question_type: QuestionType,
    frame: int,
    camera: CameraKey,
    picture: torch.Tensor,
    scale: CoordinateScale,
) -> list[StagedRow] | Hole:
    _, height, width = picture.shape
    space = ImageSpace(width_pixels=width, height_pixels=height, scale=scale)
    kind = f"vqa_{question_type}"
    text = context.prompt(kind, camera=camera, width=width, height=height, coordinates=COORDINATES[scale])
    jpeg = to_jpeg(to_picture(picture), JPEG_QUALITY)
    question = Question(kind, [text_part(text), image_part(jpeg)], ANSWER_TYPES[question_type])
    try:
        (asked, answer), request = await context.asker.ask(
            question, lambda pair: (pair.question, to_answer(pair, space))
        )
    except AnswerError as error:
        return Hole(frame=frame, camera=camera, kind=kind, cause=str(error))
    said = json.dumps(answer, sort_keys=True, ensure_ascii=False)
    return [
        StagedRow(frame=frame, role=role, style="vqa", content=content, camera=camera, request=request)
        for role, content in (("user", asked), ("assistant", said))
    ]
