"""Before boxes are asked for: does the model answer coordinates in the scale that they are read in?

A picture with squares of known place is drawn, and the model is asked for their boxes. The squares lie so
that a box in pixels and the same box in thousandths have nothing in common.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import PIL.Image
from PIL import ImageDraw
from pydantic import BaseModel, ConfigDict

from annotationrun_worker.annotate.coordinate_scale import COORDINATES
from annotationrun_worker.annotate.prompts import Prompts
from annotationrun_worker.annotate.vqa_answers import CoordinateScale, Detection, ImageSpace
from annotationrun_worker.errors import AnswerError, ConfigurationError
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.json_extraction import quote
from annotationrun_worker.vlm.messages import image_part, text_part, to_jpeg
from annotationrun_worker.vlm.request import Question

Box = Sequence[float]
"""x1, y1, x2, y2 in pixels."""

PROMPT = "coordinate_probe"
WIDTH, HEIGHT = 640, 480
"""Of the picture in pixels; common sizes, so that no server scales it by much."""
SQUARES: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "red": (80, 310, 180, 410),
    "green": (460, 60, 560, 160),
    "blue": (290, 200, 390, 300),
}
_GROUND = (150, 150, 150)
_COLOURS: Final = {"red": (220, 30, 30), "green": (30, 170, 40), "blue": (40, 60, 220)}
_JPEG_QUALITY = 95
MIN_OVERLAP = 0.5
"""Intersection over union from which a box counts as the square's."""
_SCALES: Final[tuple[CoordinateScale, ...]] = ("Pixels", "Thousandths")


class ProbeAnswer(BaseModel):
    """Answer to the prompt ``coordinate_probe``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    boxes: list[Detection]


def draw_probe() -> bytes:
    """The picture, as JPEG."""
    picture = PIL.Image.new("RGB", (WIDTH, HEIGHT), _GROUND)
    draw = ImageDraw.Draw(picture)
    for colour, (left, top, right, bottom) in SQUARES.items():
        draw.rectangle((left, top, right - 1, bottom - 1), fill=_COLOURS[colour])
    return to_jpeg(picture, _JPEG_QUALITY)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 for a box without area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def answered_scale(boxes: Sequence[Box]) -> CoordinateScale | None:
    """The scale in which ``boxes`` are the squares, one of them perhaps missed; ``None`` for neither."""
    for scale in _SCALES:
        space = ImageSpace(WIDTH, HEIGHT, scale)
        in_pixels = [space.to_pixels(list(box)) for box in boxes]
        found = [
            square
            for square in SQUARES.values()
            if any(overlap(square, box) >= MIN_OVERLAP for box in in_pixels)
        ]
        if len(found) >= len(SQUARES) - 1:
            return scale
    return None


@dataclass(slots=True)
class CoordinateProbe:
    """The check of one run: asked once, however many episodes wait for it."""

    scale: CoordinateScale
    """In which answers are read."""
    is_set_by_hand: bool
    """The manifest says it; else it is from the table of known models."""
    model: str
    prompts: Prompts
    warn: Callable[[str], None]
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _is_passed: bool = False

    async def check(self, asker: Asker) -> None:
        """Ask, unless that was done; the answer is staged as any other.

        Raises:
            ConfigurationError: the model answers in the other scale, or in neither.
            RequestFailedError: see ``VlmClient.complete``.
        """
        async with self._lock:
            if not self._is_passed:
                await self._check(replace(asker, attempt=0))
                self._is_passed = True

    async def _check(self, asker: Asker) -> None:
        values = {
            "width": WIDTH,
            "height": HEIGHT,
            "count": len(SQUARES),
            "colours": ", ".join(SQUARES),
            "coordinates": COORDINATES[self.scale],
        }
        text = self.prompts.fill(PROMPT, values)
        question = Question(PROMPT, [text_part(text), image_part(draw_probe())], ProbeAnswer)
        try:
            answer, _ = await asker.ask(question, lambda answer: answer)
        except AnswerError as error:
            self._found(None, str(error))
        else:
            said = f"it said {quote(answer.model_dump_json())}"
            self._found(answered_scale([detection.bbox for detection in answer.boxes]), said)

    def _found(self, scale: CoordinateScale | None, said: str) -> None:
        if scale == self.scale:
            return
        expected = ", ".join(f"{colour} {list(box)}" for colour, box in SQUARES.items())
        if scale is not None:
            raise ConfigurationError(
                f"{self.model!r} answers coordinates in {scale}, but {self.scale} are expected "
                f"({'set by hand' if self.is_set_by_hand else 'from the table of known models'}): asked for "
                f"the boxes of squares at {expected} pixels of {WIDTH}x{HEIGHT}, {said}; set "
                f"spec.model.coordinateScale to {scale}"
            )
        fault = (
            f"{self.model!r} did not find squares of known place in a drawn picture, in neither Pixels nor "
            f"Thousandths: asked for the boxes of squares at {expected} pixels of {WIDTH}x{HEIGHT}, {said}"
        )
        if not self.is_set_by_hand:
            raise ConfigurationError(
                f"{fault}; set spec.model.coordinateScale by hand if its boxes are right all the same, or "
                "leave bbox and keypoint out of spec.modules.vqa.questionTypes"
            )
        self.warn(f"{fault}; going on, as spec.model.coordinateScale is set to {self.scale}")
