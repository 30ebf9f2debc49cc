"""What a model server was found to be and to take, as values."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from annotationrun_worker.vlm.server_counts import ServerCounts

StructuredOutput = Literal["Honoured", "Unknown", "NotSent", "Ignored", "Refused"]
"""What the server makes of a JSON schema; Unknown: its answer was cut, or empty."""

_BEST_FIRST: Final[Sequence[StructuredOutput]] = ("Honoured", "NotSent", "Unknown", "Ignored", "Refused")
_WORDS: Final = {
    "Honoured": "JSON schemas are honoured",
    "Unknown": "whether JSON schemas are honoured did not show",
    "NotSent": "no JSON schemas are sent",
    "Ignored": "JSON schemas are ignored, and asked for as text",
    "Refused": "JSON schemas are refused, and asked for as text",
}


@dataclass(frozen=True, slots=True)
class ServerFindings:
    """What was found at the servers of a run; of several the least that all have in common."""

    model: str
    """As it is served."""
    servers: int = 1
    version: str | None = None
    """That ``/version`` tells, as vLLM does."""
    max_model_len: int | None = None
    """Tokens of prompt and answer, where the server tells it with its models, as vLLM does."""
    structured_output: StructuredOutput = "NotSent"
    images_per_prompt: int = 0
    """As many as the largest prompts of the run have were taken."""
    clip_frames: int = 0
    """Of the longest clip of the run, which was taken; 0: it sends none."""
    prompt_tokens: int = 0
    """Of the largest prompt of the run, as the server counts; 0: it does not count, or was not asked."""
    takes_uuid: bool = False
    """Pictures that it has in its cache need not be sent again."""
    coordinate_scale: str | None = None
    """In which boxes and points are read; ``None``: no question asks for any."""
    doubt: str = ""
    """Why it could not be tried; the run went on all the same."""
    counts: ServerCounts | None = None
    """Its own, from the first question on, whoever else asked meanwhile; ``None``: not told."""

    def line(self) -> str:
        """One sentence for people, what matters most at its start."""
        servers = "" if self.servers == 1 else f" at {self.servers} servers"
        version = f", version {self.version}" if self.version else ""
        parts = [f"{self.model!r}{servers}{version}"]
        if self.doubt:
            parts.append(f"could not be tried: {self.doubt}")
            return "; ".join(parts)
        parts.append(_WORDS[self.structured_output])
        context = f" of a context of {self.max_model_len}" if self.max_model_len else ""
        tokens = f" and {self.prompt_tokens} tokens{context}" if self.prompt_tokens else ""
        pictures = "1 picture" if self.images_per_prompt == 1 else f"{self.images_per_prompt} pictures"
        parts.append(f"the largest prompt has {pictures}{tokens}")
        if self.clip_frames:
            parts.append(f"a clip of {self.clip_frames} frames is taken")
        parts.append("known pictures are not sent again" if self.takes_uuid else "every picture is sent")
        if self.coordinate_scale:
            parts.append(f"coordinates in {self.coordinate_scale}")
        if self.counts is not None:
            parts.append(self.counts.words())
        return "; ".join(parts)

    def to_value(self) -> dict[str, Any]:
        """As it stands in a report file: JSON values."""
        found = asdict(self)
        return {_camel(name): value for name, value in found.items() if name != "counts"} | {
            "counts": None
            if self.counts is None
            else {_camel(name): value for name, value in asdict(self.counts).items()}
        }


def in_common(found: Sequence[ServerFindings]) -> ServerFindings:
    """What servers of the same model have in common; there is at least one."""
    first = found[0]
    lengths = [each.max_model_len for each in found if each.max_model_len is not None]
    versions = sorted({each.version for each in found if each.version})
    return replace(
        first,
        servers=len(found),
        version=", ".join(versions) or None,
        max_model_len=min(lengths, default=None),
        structured_output=max((each.structured_output for each in found), key=_BEST_FIRST.index),
        images_per_prompt=min(each.images_per_prompt for each in found),
        clip_frames=min(each.clip_frames for each in found),
        prompt_tokens=max(each.prompt_tokens for each in found),
        takes_uuid=all(each.takes_uuid for each in found),
        doubt="; ".join(each.doubt for each in found if each.doubt),
    )


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
