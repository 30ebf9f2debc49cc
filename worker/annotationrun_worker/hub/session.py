"""huggingface_hub as this package needs it: plain LFS, timeouts, and logs without signatures."""

import logging
import re
from typing import Final

import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.tqdm import disable_progress_bars

_CONNECT_SECONDS: Final = 30.0
_SILENCE_SECONDS: Final = 300.0
"""The Hub makes a commit of thousands of files before it answers."""

_QUERY: Final = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


def configure_client() -> None:
    """Set what huggingface_hub reads from the environment when it is imported, which may have been before."""
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    logging.getLogger("huggingface_hub.utils._http").addFilter(_WITHOUT_QUERIES)
    use_timeouts()


def use_timeouts(silence_seconds: float = _SILENCE_SECONDS) -> None:
    """Give up a request whose server neither takes nor sends a byte for so long; downloads have their own.

    By itself huggingface_hub waits for ever; it says so with each request, past the client's own default.
    """
    defaults = httpx2.Timeout(silence_seconds, connect=min(silence_seconds, _CONNECT_SECONDS)).as_dict()

    def bound(request: httpx2.Request) -> None:
        asked = {name: value for name, value in request.extensions["timeout"].items() if value is not None}
        request.extensions = {**request.extensions, "timeout": {**defaults, **asked}}

    def client_with_timeouts() -> httpx2.Client:
        client = default_client_factory()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks["request"], bound]}
        return client

    set_client_factory(client_with_timeouts)


def without_queries(text: str) -> str:
    """The text with the queries of addresses cut: those of uploads and downloads are signed."""
    return _QUERY.sub(r"\1?...", text)


class _WithoutQueries(logging.Filter):
    """Lets huggingface_hub log its retries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_queries(record.getMessage()), ()
        return True


_WITHOUT_QUERIES: Final = _WithoutQueries()
