"""What vLLM tells beside OpenAI's API: its version, its caches. Other servers have no such pages."""

import json
from typing import Final

import openai
from openai import AsyncOpenAI

from annotationrun_worker.vlm.responses import cut_remote, shown_url
from annotationrun_worker.vlm.server_counts import ServerCounts

_PAGE_SECONDS: Final = 5.0
"""For the answer: nothing hangs on it."""
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
