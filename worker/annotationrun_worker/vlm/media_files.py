"""Pictures and clips of a request as files that the server reads, in place of data URLs within it.

For a server that shares a folder with this process (vLLM's ``--allowed-local-media-path``). It concerns the
wire alone: requests are made, named and staged with their data URLs, and get the same answers. A file is
named by the SHA-256 of its data URL, and stays as long as a request that refers to it is under way.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from annotationrun_worker.errors import ConfigurationError, StorageError
from annotationrun_worker.vlm.messages import ContentPart

MAX_BYTES: Final = 1 << 30
"""Of all files; what is more goes within its request."""
_SUFFIXES: Final = {"data:image/jpeg;base64": ".jpg", "data:video/mp4;base64": ".mp4"}


class MediaFolder:
    """The files of the requests that are under way; to be used by one thread."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        """Nothing is written yet.

        Raises:
            ConfigurationError: there is no such folder.
        """
        if not folder.is_dir():
            raise ConfigurationError(
                f"the folder for pictures {str(folder)!r} is not there; it has to be one that the model "
                "server reads too, as its --allowed-local-media-path"
            )
        self._folder = folder.resolve()
        self._max_bytes = max_bytes
        self._uses: Counter[Path] = Counter()
        self._sizes: dict[Path, int] = {}

    @contextmanager
    def lent(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """``body`` as it is sent; its files stay until the end of the context.

        Raises:
            StorageError: a file can't be written.
        """
        used: list[Path] = []
        try:
            yield {**body, "messages": [self._message(message, used) for message in body["messages"]]}
        finally:
            self._give_back(used)

    def _message(self, message: Mapping[str, Any], used: list[Path]) -> Mapping[str, Any]:
        content = message["content"]
        if isinstance(content, str):
            return message
        return {**message, "content": [self._part(part, used) for part in content]}

    def _part(self, part: ContentPart, used: list[Path]) -> ContentPart:
        kind = part["type"]
        url = (part.get(kind) or {}).get("url", "") if kind in {"image_url", "video_url"} else ""
        head = url[:64].partition(",")[0]
        if head not in _SUFFIXES:
            return part
        path = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}{_SUFFIXES[head]}"
        if path not in self._uses and not self._write(path, url[len(head) + 1 :]):
            return part
        self._uses[path] += 1
        used.append(path)
        return {**part, kind: {"url": path.as_uri()}}

    def _write(self, path: Path, payload: str) -> bool:
        """Whether there was room for it."""
        content = base64.b64decode(payload)
        if sum(self._sizes.values()) + len(content) > self._max_bytes:
            return False
        try:
            path.write_bytes(content)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(f"can't write a picture for the model server: {error}") from error
        self._sizes[path] = len(content)
        return True

    def _give_back(self, used: list[Path]) -> None:
        for path in used:
            self._uses[path] -= 1
            if not self._uses[path]:
                del self._uses[path], self._sizes[path]
                path.unlink(missing_ok=True)
