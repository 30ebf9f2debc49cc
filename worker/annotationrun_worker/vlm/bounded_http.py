"""The HTTP client beneath the ``openai`` client: a whole response has a deadline.

The time limits of HTTP clients are per read, so that a server that sends a byte now and then is never late.
"""

import asyncio
from typing import Any

import httpx2
import openai


class BoundedHttpClient(openai.DefaultAsyncHttpxClient):
    """An HTTP client for model servers, to be given to ``AsyncOpenAI``."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """The whole response to ``request``; the request's read timeout is the time for all of it.

        Raises:
            httpx2.ReadTimeout: the response is not whole in time.
            httpx2.RequestError: as of any client of httpx2.
        """
        seconds = request.extensions["timeout"]["read"]
        try:
            async with asyncio.timeout(seconds):
                return await super().send(request, stream=False, **options)
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no whole answer within {seconds:g} s", request=request) from error
