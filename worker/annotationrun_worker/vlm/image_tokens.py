"""What pictures and clips cost in tokens of a prompt, for models of the Qwen-VL family.

Such a model scales a picture to whole squares, and each square is a token (``smart_resize`` of transformers,
``models/qwen2_vl/image_processing_qwen2_vl.py``). A square is ``patch_size`` x ``merge_size`` pixels wide, as
``preprocessor_config.json`` of the models says: 14 x 2 up to Qwen2.5-VL, 16 x 2 from Qwen3-VL on. Other
families count in other ways; for them this is a rough guess.
"""

import math
from dataclasses import dataclass
from typing import Final

MARKS: Final = 2
"""Tokens around a picture or clip: where it starts, where it ends."""
TEMPORAL_PATCH: Final = 2
"""Frames of a clip that share their tokens (``temporal_patch_size``)."""


@dataclass(frozen=True, slots=True)
class VisionGrid:
    """How a model cuts pictures into tokens."""

    square_pixels: int
    """Width and height of what becomes one token."""
    min_pixels: int
    """A smaller picture is scaled up."""
    max_pixels: int
    """A larger picture is scaled down."""

    def image_tokens(self, width: int, height: int) -> int:
        """Tokens of a picture of ``width`` x ``height`` pixels."""
        columns, rows = self._squares(width, height)
        pixels = columns * rows * self.square_pixels**2
        if pixels > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels) * self.square_pixels
            columns, rows = (max(1, math.floor(side / shrink)) for side in (width, height))
        elif pixels < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height)) / self.square_pixels
            columns, rows = (math.ceil(side * grow) for side in (width, height))
        return columns * rows + MARKS

    def clip_tokens(self, width: int, height: int, frame_count: int) -> int:
        """Tokens of a clip of ``frame_count`` frames of ``width`` x ``height`` pixels.

        Its bounds are those of the whole clip, and wide; a clip of usual size meets neither.
        """
        columns, rows = self._squares(width, height)
        return math.ceil(frame_count / TEMPORAL_PATCH) * columns * rows + MARKS

    def _squares(self, width: int, height: int) -> tuple[int, int]:
        columns, rows = (max(1, round(side / self.square_pixels)) for side in (width, height))
        return columns, rows


QWEN2_GRID: Final = VisionGrid(square_pixels=28, min_pixels=3_136, max_pixels=12_845_056)
"""Qwen2-VL and Qwen2.5-VL."""
QWEN3_GRID: Final = VisionGrid(square_pixels=32, min_pixels=65_536, max_pixels=16_777_216)
"""Qwen3-VL, Qwen3.5, Qwen3.6."""
_QWEN3_NAMES: Final = ("qwen3-vl", "qwen3.5", "qwen3.6")


def vision_grid(model_id: str) -> VisionGrid:
    """The grid of a model, by its name or the name of a copy; that of Qwen2.5-VL where it is not known."""
    name = model_id.lower()
    return QWEN3_GRID if any(known in name for known in _QWEN3_NAMES) else QWEN2_GRID
