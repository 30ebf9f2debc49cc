"""The coordinates that a model answers: their scale, and the question that finds out.

In which unit a model answers coordinates: known for some models, else to be said in the manifest.

A wrong scale passes every range check and makes every box wrong, so nothing is guessed, and what is known is
tried on a drawn picture before the first box is asked for (``coordinate_probe``).

Before boxes are asked for: does the model answer coordinates in the scale that they are read in?

A picture with squares of known place is drawn, and the model is asked for their boxes. The squares lie so
that a box in pixels and the same box in thousandths have nothing in common. It is drawn in the size of each
camera's pictures: a server may shrink large ones before its model sees them (``max_pixels`` of Qwen's
processors), and boxes in pixels are then those of another picture.
"""

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import PIL.Image
from PIL import ImageDraw
from pydantic import BaseModel, ConfigDict

from annotationrun_api.spec_model import ModelSpec
from annotationrun_api.spec_modules import VqaModule
from annotationrun_worker.errors import AnswerError, ConfigurationError
from annotationrun_worker.modules.base import Prompts
from annotationrun_worker.modules.vqa_answers import CoordinateScale, Detection, ImageSpace
from annotationrun_worker.vlm.ask import Asker
from annotationrun_worker.vlm.json_extraction import quote
from annotationrun_worker.vlm.messages import image_part, text_part, to_jpeg
from annotationrun_worker.vlm.request import Question

KNOWN_SCALES: Final[Mapping[str, CoordinateScale]] = {
    "Qwen/Qwen2-VL": "Thousandths",
    "Qwen/Qwen2.5-VL": "Pixels",
    "Qwen/Qwen3-VL": "Thousandths",
    "Qwen/Qwen3.5": "Thousandths",
    "Qwen/Qwen3.6": "Thousandths",
    "demo-vlm": "Pixels",
}
"""By the start of the model's id, from the models' own documentation; the longest match counts."""
COORDINATES: Final[Mapping[CoordinateScale, str]] = {
    "Pixels": "in pixels of this image, the top left corner being 0, 0",
    "Thousandths": "in thousandths of the image's width and height, from 0 to 1000",
}
"""How the prompts ask for coordinates."""
_WITH_COORDINATES = frozenset({"bbox", "keypoint"})


def asks_for_coordinates(vqa: VqaModule) -> bool:
    """Whether a question type has coordinates in its answer."""
    return bool(_WITH_COORDINATES & set(vqa.question_types))


def resolve_coordinate_scale(model: ModelSpec, vqa: VqaModule) -> CoordinateScale:
    """The scale of the model's coordinates; Pixels where no question asks for any.

    Raises:
        ConfigurationError: the manifest says ``Auto``, and the model is not in the table.
    """
    if model.coordinate_scale != "Auto":
        return model.coordinate_scale
    known = [start for start in KNOWN_SCALES if model.id.startswith(start)]
    if known:
        return KNOWN_SCALES[max(known, key=len)]
    if not asks_for_coordinates(vqa):
        return "Pixels"
    raise ConfigurationError(
        f"spec.model.coordinateScale is Auto, and the scale in which {model.id!r} answers coordinates is not "
        "known; set it to Pixels or Thousandths, or leave bbox and keypoint out of "
        "spec.modules.vqa.questionTypes"
    )


Box = Sequence[float]
"""x1, y1, x2, y2 in pixels."""

Size = tuple[int, int]
"""(width, height) in pixels."""

PROMPT = "coordinate_probe"
_LAYOUT_SIZE: Final[Size] = (640, 480)
_LAYOUT: Final[Mapping[str, tuple[int, int, int, int]]] = {
    "red": (80, 310, 180, 410),
    "green": (460, 60, 560, 160),
    "blue": (290, 200, 390, 300),
}
"""The squares in a picture of ``_LAYOUT_SIZE``."""
COLOURS: Final = tuple(_LAYOUT)
_GROUND = (150, 150, 150)
_INKS: Final = {"red": (220, 30, 30), "green": (30, 170, 40), "blue": (40, 60, 220)}
_JPEG_QUALITY = 95
MIN_OVERLAP = 0.5
"""Intersection over union from which a box counts as the square's."""
MAX_SHRINKING = 0.04
"""By how much all coordinates may be smaller together: a model is off by less, and not in one direction."""
LEAST_PART = 0.1
"""Of its sides that a server leaves of a picture; less is another unit."""
_SCALES: Final[tuple[CoordinateScale, ...]] = ("Pixels", "Thousandths")


class ProbeAnswer(BaseModel):
    """Answer to the prompt ``coordinate_probe``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    boxes: list[Detection]


def probe_values(size: Size, scale: CoordinateScale) -> Mapping[str, object]:
    """What the prompt is filled with."""
    return {
        "width": size[0],
        "height": size[1],
        "count": len(COLOURS),
        "colours": ", ".join(COLOURS),
        "coordinates": COORDINATES[scale],
    }


def squares_in(size: Size) -> Mapping[str, tuple[int, int, int, int]]:
    """The boxes of the squares in a picture of this size, by colour: x1, y1, x2, y2 in whole pixels."""
    parts = [side / of for side, of in zip(size * 2, _LAYOUT_SIZE * 2, strict=True)]
    return {
        colour: tuple(round(value * part) for value, part in zip(box, parts, strict=True))  # type: ignore[misc]
        for colour, box in _LAYOUT.items()
    }


def draw_probe(size: Size) -> bytes:
    """The picture, as JPEG."""
    picture = PIL.Image.new("RGB", size, _GROUND)
    draw = ImageDraw.Draw(picture)
    for colour, (left, top, right, bottom) in squares_in(size).items():
        draw.rectangle((left, top, right - 1, bottom - 1), fill=_INKS[colour])
    return to_jpeg(picture, _JPEG_QUALITY)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes; 0 for a box without area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def answered_scale(boxes: Sequence[Box], size: Size, expected: CoordinateScale) -> CoordinateScale | None:
    """The scale in which ``boxes`` are the squares, one of them perhaps missed; ``None`` for neither.

    Where both do, as in pictures of about 1000 pixels, it is the ``expected`` one.
    """
    for scale in sorted(_SCALES, key=lambda scale: scale != expected):
        space = ImageSpace(*size, scale)
        if _are_squares([space.to_pixels(list(box)) for box in boxes], size):
            return scale
    return None


def _are_squares(boxes: Sequence[Box], size: Size) -> bool:
    squares = squares_in(size).values()
    found = [square for square in squares if any(overlap(square, box) >= MIN_OVERLAP for box in boxes)]
    return len(found) >= len(squares) - 1


def shrunk_to(boxes: Mapping[str, Box], size: Size) -> Size | None:
    """The size of the smaller picture that ``boxes`` (pixels, by colour) are the squares of.

    ``None``: they are those of the picture as it was sent, or no squares at all.
    """
    squares = squares_in(size)
    known = {colour: box for colour, box in boxes.items() if colour in squares}
    if len(known) < len(squares) - 1:
        return None
    factors = [
        statistics.median(
            known[colour][place] / squares[colour][place] for colour in known for place in places
        )
        for places in ((0, 2), (1, 3))
    ]
    if max(factors) > 1 - MAX_SHRINKING or min(factors) < LEAST_PART or max(factors) > 1.1 * min(factors):
        return None
    parts = factors * 2
    enlarged = [[value / part for value, part in zip(box, parts, strict=True)] for box in known.values()]
    if not _are_squares(enlarged, size):
        return None
    width, height = (round(side * factor) for side, factor in zip(size, factors, strict=True))
    return width, height


@dataclass(slots=True)
class CoordinateProbe:
    """The check of one run: asked once, however many episodes wait for it."""

    scale: CoordinateScale
    """In which answers are read."""
    is_set_by_hand: bool
    """The manifest says it; else it is from the table of known models."""
    model: str
    sizes: Sequence[Size]
    """Of the pictures that will be asked about."""
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
                for size in self.sizes:
                    await self._check(replace(asker, attempt=0), size)
                self._is_passed = True

    async def _check(self, asker: Asker, size: Size) -> None:
        text = self.prompts.fill(PROMPT, probe_values(size, self.scale))
        question = Question(PROMPT, [text_part(text), image_part(draw_probe(size))], ProbeAnswer)
        try:
            answer, _ = await asker.ask(question, lambda answer: answer)
        except AnswerError as error:
            self._found(None, size, str(error))
            return
        said = f"it said {quote(answer.model_dump_json())}"
        scale = answered_scale([found.bbox for found in answer.boxes], size, self.scale)
        if self.scale == "Pixels" and scale != "Thousandths":
            smaller = shrunk_to({found.label.lower().split()[0]: found.bbox for found in answer.boxes}, size)
            if smaller is not None:
                self._refuse_shrinking(size, smaller, said)
        self._found(scale, size, said)

    def _refuse_shrinking(self, size: Size, smaller: Size, said: str) -> None:
        sent, seen = (f"{width}x{height}" for width, height in (size, smaller))
        raise ConfigurationError(
            f"{self.model!r} answers boxes in pixels of a picture of about {seen}, but was sent one of "
            f"{sent}, as the cameras' are: its server shrinks pictures, so all boxes would be wrong; {said}; "
            "let the server take pictures of that size (vLLM: --mm-processor-kwargs with a larger "
            "max_pixels), or leave bbox and keypoint out of spec.modules.vqa.questionTypes"
        )

    def _found(self, scale: CoordinateScale | None, size: Size, said: str) -> None:
        if scale == self.scale:
            return
        expected = ", ".join(f"{colour} {list(box)}" for colour, box in squares_in(size).items())
        sent = f"{size[0]}x{size[1]}"
        if scale is not None:
            raise ConfigurationError(
                f"{self.model!r} answers coordinates in {scale}, but {self.scale} are expected "
                f"({'set by hand' if self.is_set_by_hand else 'from the table of known models'}): asked for "
                f"the boxes of squares at {expected} pixels of {sent}, {said}; set "
                f"spec.model.coordinateScale to {scale}"
            )
        fault = (
            f"{self.model!r} did not find squares of known place in a drawn picture, in neither Pixels nor "
            f"Thousandths: asked for the boxes of squares at {expected} pixels of {sent}, {said}"
        )
        if not self.is_set_by_hand:
            raise ConfigurationError(
                f"{fault}; set spec.model.coordinateScale by hand if its boxes are right all the same, or "
                "leave bbox and keypoint out of spec.modules.vqa.questionTypes"
            )
        self.warn(f"{fault}; going on, as spec.model.coordinateScale is set to {self.scale}")
