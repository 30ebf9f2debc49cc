"""What the server reads and writes: a request, a reply, and the errors that the Hub's client tells apart."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit


class HubError(Exception):
    """An answer other than success.

    `code` is sent as ``X-Error-Code``, by which the client picks the exception that it raises.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code or ''} {message}")
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})


def repo_not_found() -> HubError:
    return HubError(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def entry_not_found(message: str = "Entry not found", commit: str | None = None) -> HubError:
    headers = {"X-Repo-Commit": commit} if commit else {}
    return HubError(404, message, "EntryNotFound", headers)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    file: tuple[str, str] | None = None
    """Repo and file whose content the body is; counted."""


def json_reply(value: object, headers: Mapping[str, str] | None = None, status: int = 200) -> Reply:
    kept = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
    return Reply(status, json.dumps(value).encode(), kept)


def error_reply(error: HubError) -> Reply:
    headers = {**error.headers, "X-Error-Message": error.message}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    return json_reply({"error": error.message}, headers, error.status)


def content_reply(
    content: bytes, asked_range: str | None, headers: Mapping[str, str], file: tuple[str, str]
) -> Reply:
    """A file, or the part of it that ``Range`` asks for (RFC 9110, 14.2): one range, others get it whole."""
    kept = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    bounds = _bounds(asked_range, len(content))
    if bounds is None:
        return Reply(200, content, kept, file)
    start, end = bounds
    if start >= end:
        return Reply(416, b"", {**kept, "Content-Range": f"bytes */{len(content)}"})
    kept["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return Reply(206, content[start:end], kept, file)


def _bounds(asked: str | None, size: int) -> tuple[int, int] | None:
    if asked is None or not asked.startswith("bytes=") or "," in asked:
        return None
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(size - int(last), 0), size
    return int(first), min(int(last) + 1, size) if last else size


@dataclass(frozen=True, slots=True)
class Request:
    """One request, body included."""

    number: int
    """From 1, in the order of arrival."""
    method: str
    target: str
    """Path and query as sent."""
    headers: Mapping[str, str]
    """Names in lower case."""
    client: str
    """The address that it came from."""
    hub_url: str
    """Under which the client knows the server that it asked."""
    cdn_url: str
    """Under which the client knows the store of the large files."""
    body: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def segments(self) -> tuple[str, ...]:
        """Of the path; a quoted slash stays within its segment."""
        return tuple(unquote(part) for part in self.path.split("/") if part)

    def query(self, name: str) -> str | None:
        """The last value, or None; ``name[]`` counts too."""
        values = self.queries(name)
        return values[-1] if values else None

    def queries(self, name: str) -> list[str]:
        found = parse_qs(urlsplit(self.target).query, keep_blank_values=True)
        return found.get(name, []) + found.get(f"{name}[]", [])

    def is_set(self, name: str) -> bool:
        return (self.query(name) or "").lower() in {"1", "true"}

    def json(self) -> dict[str, object]:
        try:
            value = json.loads(self.body or b"{}")
        except ValueError as error:
            raise HubError(400, "Invalid JSON") from error
        if not isinstance(value, dict):
            raise HubError(400, "Invalid JSON: not an object")
        return value
