"""What a server counts, read from its metrics: requests that it answered, hits of its caches.

Names: vLLM's ``v1/metrics/loggers.py``.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

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
