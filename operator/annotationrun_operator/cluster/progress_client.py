"""Asks one worker pod how far the run is.

The worker is a pod of a user's namespace: what it answers is not trusted. So there is a bound on time and on
size, no redirect is followed, and the answer has to fit its schema.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from annotationrun_api.errors import UnreadableResultError
from annotationrun_api.step_results import (
    MAX_PROGRESS_BYTES,
    PROGRESS_PATH,
    PROGRESS_PORT,
    WorkerProgress,
    read_result,
)
from annotationrun_operator.errors import ProgressUnavailableError

_TIMEOUT_SECONDS = 2.0


class ProgressClient:
    """Asks workers over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, port: int = PROGRESS_PORT) -> None:
        self._session = session
        self._port = port

    async def ask(self, ip: str) -> WorkerProgress:
        """The progress that the worker at an address tells.

        Raises:
            ProgressUnavailableError: no answer within 2 s, or one that is not what this version writes.
        """
        host = f"[{ip}]" if ":" in ip else ip
        url = f"http://{host}:{self._port}{PROGRESS_PATH}"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                content = b""
                while len(content) <= MAX_PROGRESS_BYTES and (more := await response.content.readany()):
                    content += more
        except TimeoutError as error:
            raise ProgressUnavailableError(f"{url}: no answer within {_TIMEOUT_SECONDS:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProgressUnavailableError(f"{url}: {error!r}") from error
        if response.status != 200:
            raise ProgressUnavailableError(f"{url}: expected HTTP 200, got {response.status}")
        if len(content) > MAX_PROGRESS_BYTES:
            raise ProgressUnavailableError(f"{url}: the answer is over {MAX_PROGRESS_BYTES} bytes")
        try:
            return read_result(content, WorkerProgress)
        except UnreadableResultError as error:
            raise ProgressUnavailableError(f"{url}: {error}") from error


@asynccontextmanager
async def progress_client(port: int = PROGRESS_PORT) -> AsyncIterator[ProgressClient]:
    """A client with connections of its own, which are closed after each answer."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    # A compressed answer is not unpacked: few bytes could become many.
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, trust_env=False, auto_decompress=False
    ) as session:
        yield ProgressClient(session, port)
