"""What is known of model servers: how to reach them, what they take, and what was asked of them.

How to reach the model servers, and how hard to press them.

Counts of what was asked of the model servers, and what it took.

What a server counts, read from its metrics: requests that it answered, hits of its caches.

Names: vLLM's ``v1/metrics/loggers.py``.

What a model server was found to be and to take, as values.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from prometheus_client.parser import text_string_to_metric_families

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


@dataclass(slots=True)
class Usage:
    """Counts of one process."""

    answered: int = 0
    """Requests that got an answer, of use or not; sent again after a transport error one counts once."""
    failed: int = 0
    """Requests that were refused or given up."""
    retries: int = 0
    """Times that a request that was answered had to be sent again."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that the server says it had in its cache."""

    @property
    def requests(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed

    def add(self, other: "Usage") -> None:
        """Count in what another process, or another kind of question, used."""
        for counted in fields(self):
            name = counted.name
            setattr(self, name, getattr(self, name) + getattr(other, name))


def sum_usages(usages: Iterable[Mapping[str, Usage]]) -> dict[str, Usage]:
    """The counts of several processes, by kind of question."""
    total: dict[str, Usage] = {}
    for found in usages:
        for kind, usage in found.items():
            total.setdefault(kind, Usage()).add(usage)
    return total


_COUNTERS: Final = {
    "vllm:request_success_total": "answered",
    "vllm:prefix_cache_hits_total": "prefix_hits",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:mm_cache_hits_total": "image_hits",
    "vllm:mm_cache_queries_total": "image_queries",
}
_REASON: Final = "finished_reason"
_ANSWERED: Final = frozenset({"stop", "length", "repetition"})
"""Reasons why a request was done with that has got its answer; another is that the client went away."""
_MAX_LINES: Final = 1000
"""That are read of those that count; vLLM has one of each kind, model, engine and reason."""
_MAX_LINE_LENGTH: Final = 1000
_MAX_COUNT: Final = 1 << 53
"""Beyond, a float is no exact count."""


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """Counts since the server's start, or between two looks at it."""

    answered: int = 0
    """Requests, whoever sent them."""
    prefix_hits: int = 0
    """Tokens of prompts that were computed before."""
    prefix_queries: int = 0
    """Tokens of prompts."""
    image_hits: int = 0
    """Pictures and clips that were prepared before."""
    image_queries: int = 0
    """Pictures and clips."""

    @classmethod
    def read(cls, metrics: str) -> Self | None:
        """The counts in the text of ``/metrics``; ``None`` where it has none of them.

        Lines that are odd are left out: no text of metrics, too long, a value that is no count.
        """
        counts: Counter[str] = Counter()
        told = [line for line in metrics.split("\n") if line.startswith(tuple(_COUNTERS))]
        for line in told[:_MAX_LINES]:
            for name, value in _samples(line):
                counts[_COUNTERS[name]] += value
        return cls(**counts) if counts else None

    def __add__(self, other: "ServerCounts") -> "ServerCounts":
        return ServerCounts(
            **{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        )

    def since(self, before: "ServerCounts") -> "ServerCounts":
        """What came on top of ``before``; all of it where the server was started anew between."""
        more = {one.name: getattr(self, one.name) - getattr(before, one.name) for one in fields(self)}
        return self if min(more.values()) < 0 else ServerCounts(**more)

    def words(self) -> str:
        """For people."""
        return (
            f"by its own count {self.answered} requests answered; {self.prefix_hits} of "
            f"{self.prefix_queries} prompt tokens and {self.image_hits} of {self.image_queries} pictures "
            "came from its caches"
        )


def _samples(line: str) -> list[tuple[str, int]]:
    """Name and value of what a line of metrics counts."""
    if len(line) > _MAX_LINE_LENGTH:
        return []
    try:
        found = [sample for family in text_string_to_metric_families(line) for sample in family.samples]
    except ValueError:
        return []
    return [
        (sample.name, int(sample.value))
        for sample in found
        if sample.name in _COUNTERS and 0 <= sample.value <= _MAX_COUNT and _is_counted(sample.labels)
    ]


def _is_counted(labels: Mapping[str, str]) -> bool:
    return labels.get(_REASON, "stop") in _ANSWERED


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
