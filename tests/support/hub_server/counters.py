"""What went over the wire: every request in the order of arrival, and bytes by file."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from threading import Lock
from typing import Any

FileName = tuple[str, str]
"""Repo, as in ``datasets/user/name``, and path."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One request: noted before its answer goes out, so that whoever has the answer finds the line."""

    number: int
    """From 1, in the order of arrival."""
    kind: str
    """Which endpoint, as in ``commit``."""
    method: str
    path: str
    """Without the query, which may hold a signature."""
    status: int
    """0: no answer was sent."""
    client: str
    """The address that it came from."""
    agent: str
    file: FileName | None
    """Whose content was in the answer."""
    bytes_sent: int
    """Of the answer's body."""
    bytes_received: int
    """Of the request's body."""
    noted_seconds: float = field(default_factory=time.monotonic)
    """When its answer was ready, on the server's monotonic clock."""


@dataclass
class Counters:
    """Thread-safe. Read a copy by `as_json` while requests are under way."""

    log: list[LogLine] = field(default_factory=list)
    """In the order of the answers; the numbers tell that of the arrival."""
    served: Counter[FileName] = field(default_factory=Counter)
    """Bytes of content sent, by file."""
    fetches: Counter[FileName] = field(default_factory=Counter)
    """Answers that carried content of the file, parts of it included."""
    received: Counter[FileName] = field(default_factory=Counter)
    """Bytes of content that came, by file: decoded, and as often as they came.

    An upload over LFS has no path before a commit names it: ``lfs:<SHA-256>`` until then.
    """
    requests: Counter[str] = field(default_factory=Counter)
    """By kind."""
    sent_by_kind: Counter[str] = field(default_factory=Counter)
    """Bytes of all bodies that went out."""
    received_by_kind: Counter[str] = field(default_factory=Counter)
    """Bytes of all bodies that came in, as they came: a file within a commit is in Base64."""
    lock: Lock = field(default_factory=Lock)

    def note(self, line: LogLine) -> None:
        with self.lock:
            self.log.append(line)
            self.requests[line.kind] += 1
            self.sent_by_kind[line.kind] += line.bytes_sent
            self.received_by_kind[line.kind] += line.bytes_received
            if line.file is not None and line.method == "GET":
                self.served[line.file] += line.bytes_sent
                self.fetches[line.file] += 1

    def amend(self, line: LogLine, bytes_sent: int) -> None:
        """The client left within the answer: it got less than was noted."""
        with self.lock:
            self.log[self.log.index(line)] = replace(line, bytes_sent=bytes_sent)
            self.sent_by_kind[line.kind] -= line.bytes_sent - bytes_sent
            if line.file is not None and line.method == "GET":
                self.served[line.file] -= line.bytes_sent - bytes_sent

    def receive(self, repo: str, path: str, count: int) -> None:
        with self.lock:
            self.received[repo, path] += count

    def name_upload(self, repo: str, sha256: str, path: str) -> None:
        """What was uploaded as this object counts for that file."""
        with self.lock:
            if count := self.received.pop((repo, f"lfs:{sha256}"), 0):
                self.received[repo, path] += count

    def clear(self) -> None:
        """Numbers of requests go on."""
        with self.lock:
            self.log.clear()
            for counts in (self.requests, self.sent_by_kind, self.received_by_kind):
                counts.clear()
            for by_file in (self.served, self.fetches, self.received):
                by_file.clear()

    def as_json(self) -> dict[str, Any]:
        """A copy; by file as ``{repo: {path: bytes}}``."""
        with self.lock:
            return {
                "log": [asdict(line) for line in sorted(self.log, key=lambda line: line.number)],
                "served": _nested(self.served),
                "fetches": _nested(self.fetches),
                "received": _nested(self.received),
                "requests": dict(self.requests),
                "sent_by_kind": dict(self.sent_by_kind),
                "received_by_kind": dict(self.received_by_kind),
            }


def _nested(counts: Counter[FileName]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (repo, path), count in counts.items():
        nested.setdefault(repo, {})[path] = count
    return nested
