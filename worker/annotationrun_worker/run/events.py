"""What ``annotate --events`` tells whoever started it: one JSON object a line on stdout.

``{"episode": 3, "total": 6, "failed": false, "left": false, "made": 2, "made_twice": 0}`` when the worker is
through with an episode; ``{"usage": {"vqa": {"requests": 12, ...}}}`` and ``{"frames": {"asked": 40, ...}}``
about once a second while they grow and at the end: the counts since the start; and ``{"server": {...}}`` when
the model server was tried, and at the end.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from annotationrun_worker.dataset.records import EpisodeIndex
from annotationrun_worker.frames.protocol import FrameCounts
from annotationrun_worker.vlm.server_counts import ServerCounts
from annotationrun_worker.vlm.server_findings import ServerFindings
from annotationrun_worker.vlm.usage import Usage


@dataclass(frozen=True, slots=True)
class EpisodeSeen:
    """A worker is through with an episode: it has all its results, failed, or was left to another."""

    episode: EpisodeIndex
    total: int
    """Episodes of the plan."""
    failed: bool
    left: bool
    """Another worker is at a part of it."""
    made: int
    """Results made by this worker since it last looked at the episode; the others were staged."""
    made_twice: int
    """Of those, another worker had staged first."""


def encode_event(event: EpisodeSeen | ServerFindings | FrameCounts | Mapping[str, Usage]) -> str:
    """As a line, without its end."""
    if isinstance(event, EpisodeSeen):
        return json.dumps(asdict(event))
    if isinstance(event, ServerFindings):
        return json.dumps({"server": asdict(event)})
    if isinstance(event, FrameCounts):
        return json.dumps({"frames": asdict(event)})
    return json.dumps({"usage": {kind: asdict(usage) for kind, usage in event.items()}})


def decode_event(line: str) -> EpisodeSeen | ServerFindings | FrameCounts | dict[str, Usage]:
    """Read what ``encode_event`` wrote.

    Raises:
        ValueError: the line is something else.
    """
    value = json.loads(line)
    try:
        if "server" in value:
            counts = value["server"].pop("counts")
            known = None if counts is None else ServerCounts(**counts)
            return ServerFindings(**value["server"], counts=known)
        if "frames" in value:
            return FrameCounts(**value["frames"])
        if "usage" in value:
            return {kind: Usage(**counts) for kind, counts in value["usage"].items()}
        return EpisodeSeen(**value)
    except TypeError as error:
        raise ValueError(f"no event: {line[:256]!r}") from error
