"""What a question costs: one request, its pictures, the tokens of its prompt and of its answer.

Rough rules: English text, answers of usual length without thinking, pictures as models of the Qwen-VL family
count them (``vlm/image_tokens.py``).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from annotationrun_api.spec import RunSpec
from annotationrun_api.spec_modules import PlanModule
from annotationrun_worker.annotate.prompts import Prompts, make_prompts
from annotationrun_worker.annotate.sheets import SheetLayout
from annotationrun_worker.annotate.showing import shown_words
from annotationrun_worker.vlm.image_tokens import VisionGrid, vision_grid

CHARACTERS_PER_TOKEN: Final = 4
"""Of English text; other languages and scripts need more tokens."""
TEMPLATE_TOKENS: Final = 20
"""What the chat template puts around a request."""
TIME_TOKENS: Final = 6
"""The time before a frame that is shown alone, such as ``12.50 s``."""

ANSWER_TOKENS: Final[Mapping[str, int]] = {
    "coordinate_probe": 130,
    "description": 150,
    "interjection": 45,
    "label": 15,
    "memory": 45,
    "speech": 20,
    "task": 20,
    "vqa_attribute": 45,
    "vqa_bbox": 130,
    "vqa_count": 40,
    "vqa_keypoint": 55,
    "vqa_spatial": 40,
}
"""Answers of usual length, by kind of question."""
SUBTASK_TOKENS: Final = 25
"""One subtask in the answer to ``subtasks``."""
VARIANT_TOKENS: Final = 15
"""One variant in the answer to ``rephrasings`` and ``task_axes``."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is asked, and what it costs."""

    requests: int = 0
    images: int = 0
    """Pictures sent; a clip counts as one."""
    prompt_tokens: int = 0
    """Text and pictures."""
    answer_tokens: int = 0

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(
            self.requests + other.requests,
            self.images + other.images,
            self.prompt_tokens + other.prompt_tokens,
            self.answer_tokens + other.answer_tokens,
        )

    def __mul__(self, times: int) -> "Estimate":
        return Estimate(
            self.requests * times,
            self.images * times,
            self.prompt_tokens * times,
            self.answer_tokens * times,
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures in a request."""

    images: int = 0
    tokens: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True)
class QuestionCosts:
    """How the questions of a run are put, and what they cost."""

    prompts: Prompts
    grid: VisionGrid
    max_answer_tokens: int

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        """As ``spec`` says; raises ConfigurationError where a prompt of it can't be used."""
        prompts = make_prompts(spec.prompts, spec.output_language)
        return cls(prompts, vision_grid(spec.model.id), spec.model.max_output_tokens)

    def question(
        self,
        kind: str,
        values: Mapping[str, object],
        seen: Seen | None = None,
        answer_tokens: int | None = None,
    ) -> Estimate:
        """One request: the prompt ``kind`` filled with ``values``, and what it shows."""
        seen = seen or Seen()
        text = self.prompts.fill(kind, {"shown": seen.words, **values})
        tokens = math.ceil(len(text) / CHARACTERS_PER_TOKEN) + TEMPLATE_TOKENS + seen.tokens
        answered = ANSWER_TOKENS[kind] if answer_tokens is None else answer_tokens
        return Estimate(1, seen.images, tokens, min(answered, self.max_answer_tokens))

    def shown(self, settings: PlanModule, size: tuple[int, int], frame_count: int) -> Seen:
        """``frame_count`` frames of ``size`` (width, height) as the plan module shows them."""
        words = shown_words(settings, frame_count)
        match settings.input:
            case "ContactSheets":
                layout = SheetLayout.of(settings)
                counts = [sheet.stop - sheet.start for sheet in layout.slices(frame_count)]
                sheets = [self.grid.image_tokens(*layout.sheet_size(count, *size)) for count in counts]
                return Seen(len(sheets), sum(sheets), words)
            case "Frames":
                return replace(self.timed_frames(size, frame_count), words=words)
            case "VideoUrl":
                return Seen(1, self.grid.clip_tokens(*size, frame_count), words)

    def timed_frames(self, size: tuple[int, int], frame_count: int) -> Seen:
        """``frame_count`` frames one by one, each after its time."""
        return Seen(frame_count, frame_count * (self.grid.image_tokens(*size) + TIME_TOKENS))
