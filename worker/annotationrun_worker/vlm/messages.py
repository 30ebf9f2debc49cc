"""The parts of a prompt as OpenAI's API has them, and what pictures cost in tokens.

OpenAI content parts: text, images as JPEG data URLs, videos as H.264 data URLs.

What pictures and clips cost in tokens of a prompt, for models of the Qwen-VL family.

Such a model scales a picture to whole squares, and each square is a token (``smart_resize`` of transformers,
``models/qwen2_vl/image_processing_qwen2_vl.py``). A square is ``patch_size`` x ``merge_size`` pixels wide, as
``preprocessor_config.json`` of the models says: 14 x 2 up to Qwen2.5-VL, 16 x 2 from Qwen3-VL on. Other
families count in other ways; for them this is a rough guess.
"""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

import numpy as np
import PIL.Image
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

ContentPart = dict[str, Any]

FRAME_JPEG_QUALITY: Final = 90
"""Of a frame that is sent whole; boxes and grasps need its edges."""

Frames: TypeAlias = Union[NDArray[np.uint8], "Tensor", Sequence[Union[NDArray[np.uint8], "Tensor"]]]
"""Frames as a provider gives them: arrays are uint8 (n, height, width, 3), tensors uint8 (n, 3, height,
width), RGB both; or a sequence of single ones without n. One channel in place of three is grey."""


def text_part(text: str) -> ContentPart:
    """A text part."""
    return {"type": "text", "text": text}


def image_part(jpeg: bytes) -> ContentPart:
    """An image part that carries the JPEG itself as a data URL."""
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def to_jpeg(picture: PIL.Image.Image, quality: int) -> bytes:
    """Encode ``picture`` as JPEG; ``quality`` is Pillow's, 1 to 95.

    Huffman tables made for the picture save a tenth of the bytes for half as much time again (0.3 ms for
    320x240), and no pixel changes.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def to_image_blocks(frames: Frames, quality: int = FRAME_JPEG_QUALITY) -> list[ContentPart]:
    """One image part a frame, in order; none for no frames.

    Raises:
        ValueError: a frame is no picture of bytes; see ``Frames``.
    """
    return [image_part(to_jpeg(_picture(frame), quality)) for frame in frames]


def to_video_block(
    frames: Frames, times_seconds: Sequence[float] | None = None, quality: int = FRAME_JPEG_QUALITY
) -> list[ContentPart]:
    """Each frame as an image part after a text part with its time: vLLM's server takes no frame lists.

    ``times_seconds`` has a time for each frame; ``None``: they are counted in place of that, as ``frame 1 of
    8``, so that the model knows their order.

    Raises:
        ValueError: a frame is no picture of bytes (see ``Frames``), or the times are more or fewer.
    """
    images = to_image_blocks(frames, quality)
    if times_seconds is None:
        counted = enumerate(images, start=1)
        return [part for n, image in counted for part in (text_part(f"frame {n} of {len(images)}"), image)]
    pairs = zip(times_seconds, images, strict=True)
    return [part for time, image in pairs for part in (text_part(f"{time:.2f} s"), image)]


def _picture(frame: "NDArray[np.uint8] | Tensor") -> PIL.Image.Image:
    if isinstance(frame, np.ndarray):
        kind, pixels = "an array", frame
    else:
        kind, pixels = "a tensor", frame.detach().cpu().numpy()
        pixels = pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in {1, 3}:
        raise ValueError(
            f"{kind} of {frame.dtype} and shape {tuple(frame.shape)} is no frame; expected several, each of "
            "uint8: an array (height, width, 3) or a tensor (3, height, width)"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def to_video_url_block(clip: Path) -> ContentPart:
    """A video part that carries the mp4 file ``clip`` itself as a data URL."""
    return video_part(clip.read_bytes())


def video_part(mp4: bytes) -> ContentPart:
    """A video part that carries the mp4 itself as a data URL."""
    url = "data:video/mp4;base64," + base64.b64encode(mp4).decode()
    return {"type": "video_url", "video_url": {"url": url}}


def clip_fields(fps: float) -> dict[str, Any]:
    """What a request has beside a clip of ``fps`` frames a second: the server shall take every frame of it.

    Clips are sampled already; Qwen's processors take the rate with each request.
    """
    return {"mm_processor_kwargs": {"fps": fps, "do_sample_frames": False}}


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
