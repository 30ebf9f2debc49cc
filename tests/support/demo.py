"""Asks the demo model over HTTP, as the worker would, and compares with the demo's truth."""

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image

from annotationrun_worker.modules.base import Prompts
from annotationrun_worker.modules.prompt_media import SheetLayout, build_sheet
from annotationrun_worker.video.tiles import tiles_of
from annotationrun_worker.vlm.messages import image_part, text_part, to_jpeg

LAYOUT = SheetLayout(columns=5, frames_per_sheet=20, tile_width_pixels=224, jpeg_quality=84)
Box = Sequence[float]


def ask(base_url: str, kind: str, content: list[dict[str, Any]], **fields: Any) -> Any:
    """The demo model's answer object to one request."""
    return json.loads(post(base_url, chat_body(kind, content, **fields))["choices"][0]["message"]["content"])


def chat_body(kind: str, content: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    schema = {"name": kind, "schema": {"type": "object"}, "strict": True}
    return {
        "model": "demo-vlm",
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": 0.2,
        "max_tokens": 512,
        "seed": 1729,
        "chat_template_kwargs": {"enable_thinking": False},
        **fields,
    }


def post(base_url: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def sheets_content(
    kind: str, pictures: Sequence[np.ndarray], seconds: Sequence[float], layout: SheetLayout = LAYOUT
) -> list[dict[str, Any]]:
    """Contact sheets of RGB pictures (height, width, 3) and the prompt of `kind`."""
    tiles = tiles_of(np.stack(pictures), layout.tile_width_pixels)
    size = layout.frames_per_sheet
    sheets = [
        image_part(build_sheet(tiles[start : start + size], seconds[start : start + size], layout))
        for start in range(0, len(tiles), size)
    ]
    values = {
        "task": "Put the blocks on the pads",
        "shown": f"The images are {len(sheets)} contact sheets with {len(pictures)} frames in total, "
        f"{layout.columns} columns wide, at most {size} frames on a sheet.",
        "window_seconds": f"{seconds[-1]:.2f}",
        "min_subtask_seconds": 1.5,
        "max_steps": 8,
        "description": "",
    }
    return [*sheets, text_part(Prompts().fill(kind, values))]


def frame_content(picture: np.ndarray, quality: int = 90) -> list[dict[str, Any]]:
    """One full frame and a question about it."""
    jpeg = to_jpeg(PIL.Image.fromarray(picture), quality)
    return [text_part("Task: Put the blocks on the pads\nAsk one question and answer it."), image_part(jpeg)]


def decode_video(path: Path) -> list[np.ndarray]:
    """All frames of an mp4 file, RGB, in order."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (one, other)]
    return width * height / (sum(areas) - width * height)
