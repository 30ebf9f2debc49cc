"""What a request that only tries a server has, and is known by; what a run needs of its servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from annotationrun_worker.vlm.messages import text_part
from annotationrun_worker.vlm.request import Sampling

PROBE_KIND: Final = "server_probe"
"""Name of the schema, and of the kind of request in the counts."""
PROBE_TEXT: Final = "All of the above only tries whether the server takes it. Greet me in one word."
"""The last text part of each request that only tries the server."""


@dataclass(frozen=True, slots=True)
class LargeClip:
    """A clip of a prompt: a part ``video_url``."""

    size: tuple[int, int]
    """(width, height) in pixels."""
    frame_count: int
    fps: float


@dataclass(frozen=True, slots=True)
class LargePrompt:
    """One of the largest prompts that a run will send."""

    image_sizes: Sequence[tuple[int, int]]
    """(width, height) in pixels of its pictures, in order."""
    text: str
    settings: str
    """Those that decide how large it is, for an error message."""
    clip: LargeClip | None = None

    @property
    def pixels(self) -> int:
        """Of its pictures, and of all frames of its clip."""
        frames = [self.clip.size] * self.clip.frame_count if self.clip else []
        return sum(width * height for width, height in [*self.image_sizes, *frames])


@dataclass(frozen=True, slots=True)
class ServerNeeds:
    """What a run needs of its servers."""

    sampling: Sampling
    prompts: Sequence[LargePrompt]
    """At least one; the first has the most pixels. Where clips are sent, the largest one is among them."""
    coordinate_scale: str | None = None
    """In which boxes and points are read, if any are asked for."""


def is_probe(body: Mapping[str, Any]) -> bool:
    """Whether a request only tries the server."""
    contents = [message["content"] for message in body["messages"]]
    return any(isinstance(content, list) and text_part(PROBE_TEXT) in content for content in contents)
