"""Hits of a server's caches, read from its metrics.

Names: vLLM's ``v1/metrics/loggers.py``; ``prometheus_client`` adds ``_total`` to counters.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, Self

_COUNTERS: Final = {
    "vllm:prefix_cache_hits": "prefix_hits",
    "vllm:prefix_cache_queries": "prefix_queries",
    "vllm:mm_cache_hits": "image_hits",
    "vllm:mm_cache_queries": "image_queries",
}
_SAMPLE: Final = re.compile(r"^(vllm:\w+?)(?:_total)?(?:\{.*\})? (\d[\d.eE+]*)", re.MULTILINE)
"""A line of Prometheus' text format, of a counter of vLLM; one a process of the engine."""


@dataclass(frozen=True, slots=True)
class CacheHits:
    """Counts since the server's start, or between two looks at it."""

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
        """The counts in the text of ``/metrics``; ``None`` where it has none of them."""
        counts: Counter[str] = Counter()
        for name, value in _SAMPLE.findall(metrics):
            if name in _COUNTERS:
                counts[_COUNTERS[name]] += int(float(value))
        return cls(**counts) if counts else None

    def __add__(self, other: "CacheHits") -> "CacheHits":
        return CacheHits(
            self.prefix_hits + other.prefix_hits,
            self.prefix_queries + other.prefix_queries,
            self.image_hits + other.image_hits,
            self.image_queries + other.image_queries,
        )

    def since(self, before: "CacheHits") -> "CacheHits":
        """What came on top of ``before``; all of it where the server was started anew between."""
        if self.prefix_queries < before.prefix_queries or self.image_queries < before.image_queries:
            return self
        return CacheHits(
            self.prefix_hits - before.prefix_hits,
            self.prefix_queries - before.prefix_queries,
            self.image_hits - before.image_hits,
            self.image_queries - before.image_queries,
        )

    def words(self) -> str:
        """For people."""
        return (
            f"{self.prefix_hits} of {self.prefix_queries} prompt tokens and {self.image_hits} of "
            f"{self.image_queries} pictures came from its caches"
        )
