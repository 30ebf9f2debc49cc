"""One request on its way to one server, with pictures sent as little as need be.

Pictures that a server has in its cache are named, not sent again: ``uuid`` on an image part.

vLLM keeps what it made of a picture under the ``uuid`` of its part, and takes a part whose ``image_url`` is
null from there; a picture that it no longer has is a refusal, and then all are sent
(https://docs.vllm.ai/en/latest/features/multimodal_inputs/, "you can also skip sending media"). It trusts
the name alone, so the name is the SHA-256 of the data URL: another picture never has it.

Pictures and clips of a request as files that the server reads, in place of data URLs within it.

For a server that shares a folder with this process (vLLM's ``--allowed-local-media-path``). It concerns the
wire alone: requests are made, named and staged with their data URLs, and get the same answers. A file is
named by the SHA-256 of its data URL, and stays as long as a request that refers to it is under way.

One request to one server: sent as little as the server needs, and again where it went away with it.
"""

import asyncio
import base64
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ConfigurationError, ServerNotReadyError, StorageError
from annotationrun_worker.vlm.messages import ContentPart
from annotationrun_worker.vlm.readiness import POLL_SECONDS, Readiness
from annotationrun_worker.vlm.responses import shown_url
from annotationrun_worker.vlm.server_errors import is_away, is_broken_connection, remote_words

_REMEMBERED: Final = 256
"""Pictures of a server; 4 GiB, vLLM's default for its cache, hold about as many contact sheets."""


def picture_uuid(part: ContentPart) -> str:
    """The name of the picture in an image part."""
    return hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()


class KnownImages:
    """The pictures that one server has likely in its cache."""

    def __init__(self) -> None:
        """None yet."""
        self._uuids: OrderedDict[str, None] = OrderedDict()
        self.left_out = 0
        """Pictures in all that were named in place of being sent, and taken."""

    def wire_body(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], int]:
        """The request as it is sent.

        Returns:
            The body with the pictures named, those that are known left out; all their names; how many are
            left out.
        """
        uuids: list[str] = []
        left_out = 0

        def named(part: ContentPart) -> ContentPart:
            nonlocal left_out
            if part.get("type") != "image_url":
                return part
            uuid = picture_uuid(part)
            uuids.append(uuid)
            if uuid not in self._uuids:
                return {**part, "uuid": uuid}
            left_out += 1
            return {**part, "uuid": uuid, "image_url": None}

        messages = [
            message
            if isinstance(message["content"], str)
            else {**message, "content": [named(part) for part in message["content"]]}
            for message in body["messages"]
        ]
        return {**body, "messages": messages}, uuids, left_out

    def taken(self, uuids: list[str], left_out: int) -> None:
        """The server has answered a request with these pictures."""
        self.left_out += left_out
        for uuid in uuids:
            self._uuids[uuid] = None
            self._uuids.move_to_end(uuid)
        while len(self._uuids) > _REMEMBERED:
            self._uuids.popitem(last=False)

    def missed(self, uuids: list[str]) -> None:
        """The server lacks some of these, or one that is among them."""
        for uuid in uuids:
            self._uuids.pop(uuid, None)


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


LOST_CONNECTIONS: Final = 2
"""Times that a request is sent again after its server went away with it and came back.

The request may be what the server dies of; others that were in flight with it are lost with it.
"""


class Transport:
    """Sends requests to the servers of one client."""

    def __init__(
        self, readiness: Readiness, start_timeout_seconds: float, media: MediaFolder | None = None
    ) -> None:
        """Nothing is sent yet.

        Args:
            readiness: waits for servers that went away.
            start_timeout_seconds: how long one may be away.
            media: where pictures go as files; ``None``: they go within the requests.
        """
        self._readiness = readiness
        self._start_timeout_seconds = start_timeout_seconds
        self._media = media
        self._known_images: dict[AsyncOpenAI, KnownImages] = {}

    @property
    def images_left_out(self) -> int:
        """Pictures that were named in place of being sent, as the server had them."""
        return sum(known.left_out for known in self._known_images.values())

    def name_known_images(self, servers: Iterable[AsyncOpenAI]) -> None:
        """From now on pictures that these servers have are not sent again."""
        self._known_images = {server: KnownImages() for server in servers}

    async def post(self, server: AsyncOpenAI, body: Mapping[str, Any]) -> tuple[httpx2.Response, int]:
        """The response, and the number of retries; a server that goes away is waited for.

        Raises:
            openai.APIError: there is no answer after all retries.
            ServerNotReadyError: the server stays away.
        """
        clock = asyncio.get_running_loop().time
        lost, deadline = 0, clock() + self._start_timeout_seconds
        while True:
            try:
                return await self._post_once(server, body)
            except openai.APIError as error:
                lost += is_broken_connection(error)
                if not (self._readiness.waits and is_away(error)) or lost > LOST_CONNECTIONS:
                    raise
                if clock() >= deadline:
                    raise self._stays_away(server, error) from error
                await self._readiness.returned(server)
                await asyncio.sleep(POLL_SECONDS)

    async def _post_once(self, server: AsyncOpenAI, body: Mapping[str, Any]) -> tuple[httpx2.Response, int]:
        """The same; where pictures are left out and the server refuses that, they are sent once more."""
        known = self._known_images.get(server)
        if known is None:
            return await self._create(server, body)
        named, uuids, left_out = known.wire_body(body)
        try:
            response, retries = await self._create(server, named)
        except openai.APIStatusError:
            if not left_out:
                raise
            known.missed(uuids)
            named, uuids, left_out = known.wire_body(body)
            response, retries = await self._create(server, named)
            retries += 1
        known.taken(uuids, left_out)
        return response, retries

    async def _create(self, server: AsyncOpenAI, body: Mapping[str, Any]) -> tuple[httpx2.Response, int]:
        if self._media is None:
            return await _create(server, body)
        with self._media.lent(body) as lent:
            return await _create(server, lent)

    def _stays_away(self, server: AsyncOpenAI, error: openai.APIError) -> ServerNotReadyError:
        return ServerNotReadyError(
            f"the server at {shown_url(server)!r} seems to be there, and answered no question for "
            f"{self._start_timeout_seconds:g} s: {remote_words(server, error)}"
        )


async def _create(server: AsyncOpenAI, body: Mapping[str, Any]) -> tuple[httpx2.Response, int]:
    # extra_body goes out as it is; what is given by name the client walks through piece by piece
    raw = await server.chat.completions.with_raw_response.create(
        model=body["model"], messages=[], extra_body=body
    )
    return raw.http_response, raw.retries_taken
