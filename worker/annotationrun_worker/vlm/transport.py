"""One request to one server: sent as little as the server needs, and again where it went away with it."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpx2
import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ServerNotReadyError
from annotationrun_worker.vlm.known_images import KnownImages
from annotationrun_worker.vlm.media_files import MediaFolder
from annotationrun_worker.vlm.readiness import POLL_SECONDS, Readiness
from annotationrun_worker.vlm.responses import shown_url
from annotationrun_worker.vlm.server_errors import is_away, is_broken_connection, remote_words

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
