"""How to reach the model servers, and how hard to press them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

NO_API_KEY: Final = "none"
"""Sent where there is no key: a server without keys takes any, and the client wants one."""
AT_HAND: Final = 2
"""Requests that a worker should have ready, as a multiple of its bound: once in flight, once to follow."""

StructuredOutputs = Literal["Auto", "Required", "Never"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How to reach the servers, and how hard to press them."""

    base_urls: Sequence[str]
    """At least one; all serve the same model."""
    model: str
    request_timeout_seconds: float
    requests_in_flight: int
    structured_outputs: StructuredOutputs
    context_tokens: int
    start_timeout_seconds: float = 0
    """How long a server may take until it is there, first and when it has gone; 0: what is not there is an
    error at once."""
    media_folder: Path | None = None
    """Pictures and clips go as files in it, which the servers read too; ``None``: within the requests."""
