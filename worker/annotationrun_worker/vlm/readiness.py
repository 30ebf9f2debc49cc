"""Whether a server is ready, and which one it is.

What vLLM tells beside OpenAI's API: its version, its caches. Other servers have no such pages.

Waiting for model servers: a sidecar that loads its model, or that was started again.

``GET /health`` beside the API's path is asked first (vLLM: 200 while its engine runs), then the list of
models. Servers without ``/health`` refuse it, and are ready when they list the model.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import openai
from openai import AsyncOpenAI

from annotationrun_worker.errors import ConfigurationError, ServerNotReadyError
from annotationrun_worker.vlm.responses import ModelList, cut_remote, read_response, shown_url
from annotationrun_worker.vlm.server import ServerCounts, ServerSettings
from annotationrun_worker.vlm.server_errors import is_refusal, refused, remote_words

_PAGE_SECONDS: Final = 20.0
"""For a page, which a server tells late that computes on processors it shares."""
_VERSION_LENGTH: Final = 64


def page_url(base_url: str, name: str) -> str:
    """``http://host:8000/health`` for ``http://host:8000/v1`` and ``health``; what lies before stays."""
    return f"{base_url.removesuffix('/v1')}/{name}"


async def read_version(server: AsyncOpenAI) -> str | None:
    """What ``/version`` tells; ``None`` where there is no such page, or an odd one."""
    try:
        told = json.loads(await _read(server, "version"))
    except (openai.APIError, ValueError, RecursionError):
        return None
    version = told.get("version") if isinstance(told, dict) else None
    return cut_remote(version)[:_VERSION_LENGTH] or None if isinstance(version, str) else None


async def read_server_counts(server: AsyncOpenAI) -> ServerCounts | None:
    """The counts of ``/metrics`` since the server's start; ``None`` where it tells none."""
    try:
        return ServerCounts.read(await _read(server, "metrics"))
    except openai.APIError:
        return None


async def _read(server: AsyncOpenAI, name: str) -> str:
    patient = server.with_options(max_retries=0, timeout=_PAGE_SECONDS)
    return str(await patient.get(page_url(shown_url(server), name), cast_to=str))


POLL_SECONDS: Final = 1.0
"""Between two looks at a server that is waited for."""
_LOOK_SECONDS: Final = 10.0
"""For one such look, all that is asked in it."""
_LAST_LOOK_SECONDS: Final = 1.0
"""For a look that begins when the time is all but over: who is there shows it in less."""

_NAMED_MODELS: Final = 10
"""Of those that a server has, where it has not the one that is wanted."""
_NAME_LENGTH: Final = 100


class Readiness:
    """The servers of one client: whether they are there, and serve the model."""

    def __init__(
        self,
        servers: Sequence[AsyncOpenAI],
        settings: ServerSettings,
        say: Callable[[str], None],
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        """Nothing is asked yet.

        Args:
            servers: at least one.
            settings: the model that each has to serve, and how long a server may take to be there, first
                and whenever it has gone; 0: it is looked for once, within the time of a request, and
                ``/health`` is not asked.
            say: told of each wait that begins.
            prepare: done once when all are there, before ``started`` ends.
        """
        self._servers = servers
        self._model = settings.model
        self._timeout_seconds = settings.start_timeout_seconds
        self._look_seconds = settings.request_timeout_seconds
        self._say = say
        self._prepare = prepare
        self.max_model_lens: dict[str, int | None] = {}
        """What each server told of its model when it was last looked at, by URL as it is shown."""
        self._start: asyncio.Task[None] | None = None
        self._returns: dict[AsyncOpenAI, asyncio.Task[None]] = {}

    @property
    def waits(self) -> bool:
        """Whether a server may take its time."""
        return self._timeout_seconds > 0

    async def close(self) -> None:
        """Stop waiting."""
        tasks = [task for task in (self._start, *self._returns.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def started(self) -> None:
        """Wait until all servers were seen to be there; they are looked for once in all.

        Raises:
            ServerNotReadyError, ConfigurationError: see ``check``.
        """
        await asyncio.shield(self._starting())

    async def has_started(self, within_seconds: float) -> bool:
        """Whether ``started`` ends within so many seconds; true where no server may take its time.

        Raises:
            ServerNotReadyError, ConfigurationError: see ``check``.
        """
        if not self.waits:
            return True
        start = self._starting()
        await asyncio.wait({start}, timeout=within_seconds)
        if start.done():
            start.result()
        return start.done()

    async def check(self) -> None:
        """Look whether all servers are there and serve the model; wait for those that are not yet.

        Raises:
            ServerNotReadyError: nobody answers at an endpoint in time, or not as OpenAI's API does.
            ConfigurationError: a server answers, and does not serve the model.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        for server in self._servers:
            await self._wait(server, deadline)

    async def returned(self, server: AsyncOpenAI) -> None:
        """Wait for ``server``, which did not answer; all that wait for it look together.

        Raises:
            ServerNotReadyError, ConfigurationError: see ``check``.
        """
        task = self._returns.get(server)
        if task is None or task.done():
            deadline = asyncio.get_running_loop().time() + self._timeout_seconds
            task = self._returns[server] = asyncio.create_task(self._wait(server, deadline))
        await asyncio.shield(task)

    def _starting(self) -> asyncio.Task[None]:
        if self._start is None:
            self._start = asyncio.create_task(self._check_and_prepare())
        return self._start

    async def _check_and_prepare(self) -> None:
        await self.check()
        await self._prepare()

    async def _wait(self, server: AsyncOpenAI, deadline: float) -> None:
        has_told = False
        while True:
            try:
                await self._look_in_time(server, deadline)
            except ServerNotReadyError as error:
                if not self.waits:
                    raise
                if asyncio.get_running_loop().time() >= deadline:
                    raise ServerNotReadyError(
                        f"the model server was not ready within {self._timeout_seconds:g} s: {error}"
                    ) from error
                if not has_told:
                    self._say(f"waiting for the model server, {self._timeout_seconds:g} s at most: {error}")
                    has_told = True
            else:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _look_in_time(self, server: AsyncOpenAI, deadline: float) -> None:
        """One look, which ends by ``deadline`` where servers are waited for."""
        left = max(deadline - asyncio.get_running_loop().time(), _LAST_LOOK_SECONDS)
        seconds = min(left, _LOOK_SECONDS) if self.waits else self._look_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._look(server)
        except TimeoutError as error:
            raise ServerNotReadyError(
                f"no model server at {shown_url(server)!r}: no whole answer within {seconds:.3g} s; "
                "start it or correct the endpoint, then run again"
            ) from error

    async def _look(self, server: AsyncOpenAI) -> None:
        if self.waits:
            server = server.with_options(max_retries=0, timeout=_LOOK_SECONDS)
            await self._look_at_health(server)
        else:
            server = server.with_options(max_retries=1)
        try:
            raw = await server.models.with_raw_response.list()
        except openai.APIError as error:
            if is_refusal(error):
                raise refused(server, error) from error
            raise _nobody(server, error) from error
        models = read_response(raw.http_response, ModelList, server, ServerNotReadyError).data
        served = {model.id: model.max_model_len for model in models}
        if self._model not in served:
            raise ConfigurationError(
                f"the server at {shown_url(server)!r} serves {_named(list(served))}, "
                f"not {self._model!r}; set spec.model.id to the served name"
            )
        self.max_model_lens[shown_url(server)] = served[self._model]

    async def _look_at_health(self, server: AsyncOpenAI) -> None:
        try:
            await server.get(page_url(shown_url(server), "health"), cast_to=str)
        except openai.APIError as error:
            if not is_refusal(error):
                raise _nobody(server, error) from error


def _named(models: Sequence[str]) -> str:
    names = [repr(cut_remote(model)[:_NAME_LENGTH]) for model in models[:_NAMED_MODELS]]
    more = len(models) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "") if names else "nothing"


def _nobody(server: AsyncOpenAI, error: openai.APIError) -> ServerNotReadyError:
    return ServerNotReadyError(
        f"no model server at {shown_url(server)!r}: {remote_words(server, error)}; "
        "start it or correct the endpoint, then run again"
    )
