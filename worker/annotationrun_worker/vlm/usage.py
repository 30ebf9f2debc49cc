"""Counts of what was asked of the model servers, and what it took."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields


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
