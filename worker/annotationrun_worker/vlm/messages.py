"""OpenAI content parts: text, and images as JPEG data URLs."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch

ContentPart = dict[str, Any]


def text_part(text: str) -> ContentPart:
    """A text part."""
    return {"type": "text", "text": text}


def image_part(jpeg: bytes) -> ContentPart:
    """An image part that carries the JPEG itself as a data URL."""
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def to_picture(frame: torch.Tensor) -> PIL.Image.Image:
    """A frame, uint8 (3, height, width) RGB, as a Pillow picture."""
    return PIL.Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def to_jpeg(picture: PIL.Image.Image, quality: int) -> bytes:
    """Encode ``picture`` as JPEG; ``quality`` is Pillow's, 1 to 95."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def to_image_blocks(frames: torch.Tensor, quality: int) -> Sequence[ContentPart]:
    """One image part a frame, in order; ``frames`` is uint8 (n, 3, height, width) RGB."""
    return [image_part(to_jpeg(to_picture(frame), quality)) for frame in frames]
