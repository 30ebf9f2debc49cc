"""Calls to the Hub, and how huggingface_hub is set up for them.

huggingface_hub as this package needs it: plain LFS, timeouts, and logs without signatures.

Calls to the Hub: tried again while it is busy or away, and its refusals as errors of ours.

The token of whoever has logged in on this machine.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import httpx2
from huggingface_hub import constants, get_token, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.tqdm import disable_progress_bars
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_random_exponential

from annotationrun_worker.errors import HubAccessError, HubUnavailableError, OutputError

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


_LOG = logging.getLogger(__name__)

ATTEMPTS: Final = 6
TOTAL_SECONDS: Final = 600.0
"""No further try is begun after so long."""
LONGEST_WAIT_SECONDS: Final = 300.0
"""However long the Hub asks for: its windows of rate limits are of 5 minutes."""

_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_BAD_ADDRESS: Final = (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)
_SHOWN_CHARACTERS: Final = 300  # of what the Hub says
_PIECE_SECONDS: Final = 1.0

sleep: Callable[[float], None] = time.sleep
"""Between two tries."""

configure_client()

Answer = TypeVar("Answer")


def hub_call(
    what: str, call: Callable[[], Answer], stopped: threading.Event | None = None, attempts: int = ATTEMPTS
) -> Answer:
    """Give what ``call`` gives; try again where the Hub is busy, cuts a transfer or can't be reached.

    Between two tries it waits as long as the Hub says (``Retry-After``, ``RateLimit``), else exponentially
    with jitter.

    Args:
        what: is done, for the errors: ``"reading dataset 'user/name'"``.
        call: may run several times, so it must do no harm twice.
        stopped: once it is set, nothing is waited for and tried again.
        attempts: tries at most.

    Raises:
        HubUnavailableError: all tries failed.
        HubAccessError: the Hub refuses: no such repository or revision, no access.
        HfHubHTTPError: any other answer, such as a conflict, which only the caller can judge.
        EntryNotFoundError: there is no such file in the repository.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: is_transient(error) and not _is_set(stopped)),
        stop=stop_after_attempt(attempts) | stop_after_delay(TOTAL_SECONDS),
        wait=_wait_seconds,
        sleep=lambda seconds: _sleep(seconds, stopped),
        before_sleep=lambda state: _log_retry(what, state),
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        found = _as_ours(what, _cause_of(error), attempts)
        if found is None:
            raise
        raise found from error


def read_call(
    what: str, call: Callable[[], Answer], stopped: threading.Event | None = None, attempts: int = ATTEMPTS
) -> Answer:
    """``hub_call`` where any other answer of the Hub is a refusal too.

    Raises:
        HubAccessError, HubUnavailableError, EntryNotFoundError: see ``hub_call``.
    """
    try:
        return hub_call(what, call, stopped, attempts)
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        raise HubAccessError(
            f"{what}: {short(error)}; is the repository sound, and HF_ENDPOINT (if set) a Hub?"
        ) from error


def output_call(what: str, call: Callable[[], Answer]) -> Answer:
    """``hub_call`` of a publish, where any other answer of the Hub is a refusal too.

    Raises:
        HubAccessError, HubUnavailableError: see ``hub_call``.
        OutputError: the Hub refuses; the cause is what it answered.
    """
    try:
        return hub_call(what, call)
    except HfHubHTTPError as error:
        raise OutputError(f"{what}: the Hub refuses it: {short(error)}") from error


def _is_set(event: threading.Event | None) -> bool:
    return event is not None and event.is_set()


def _sleep(seconds: float, stopped: threading.Event | None) -> None:
    """In pieces, to end soon after ``stopped`` is set."""
    while seconds > 0 and not _is_set(stopped):
        sleep(min(seconds, _PIECE_SECONDS))
        seconds -= _PIECE_SECONDS


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well work later."""
    error = _cause_of(error)
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _BUSY
    if isinstance(error, LocalEntryNotFoundError):
        # What a download raises when it could not reach the Hub; the cause is chained.
        cause = error.__cause__
        return cause is None or not isinstance(cause, HfHubHTTPError) or is_transient(cause)
    if isinstance(error, (FileMetadataError, OfflineModeIsEnabled, *_BAD_ADDRESS)):
        return False
    if isinstance(error, json.JSONDecodeError):
        return True  # a gateway's page, where huggingface_hub reads the answer before it looks at the status
    return isinstance(error, httpx2.RequestError | ConnectionError | TimeoutError) or _is_short(error)


def _cause_of(error: BaseException) -> BaseException:
    """The error itself, or what stopped an upload: huggingface_hub wraps that in a RuntimeError."""
    is_wrapped = type(error) is RuntimeError and error.__cause__ is not None
    return error.__cause__ if is_wrapped and error.__cause__ is not None else error


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the Hub answered with; ``None`` where there was no answer."""
    response = getattr(_cause_of(error), "response", None)
    return None if response is None else int(response.status_code)


def _is_short(error: BaseException) -> bool:
    """A download that ended before its last byte: huggingface_hub says so in words only."""
    return isinstance(error, OSError) and "Consistency check failed" in str(error)


_BACKOFF = wait_random_exponential(multiplier=1, max=30)


def _wait_seconds(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    asked = _asked_seconds(error)
    return float(_BACKOFF(state)) if asked is None else min(asked, LONGEST_WAIT_SECONDS)


def _asked_seconds(error: BaseException | None) -> float | None:
    """The delay that the Hub asks for: ``Retry-After: 30``, or ``RateLimit: "api";r=0;t=120``.

    https://www.ietf.org/archive/id/draft-ietf-httpapi-ratelimit-headers-10.html
    """
    response = None if error is None else getattr(_cause_of(error), "response", None)
    if response is None:
        return None
    texts = [response.headers.get("Retry-After", "")]
    fields = response.headers.get("RateLimit", "").split(";")
    if any(field.strip() == "r=0" for field in fields):
        texts += [field.strip().removeprefix("t=") for field in fields if field.strip().startswith("t=")]
    return next((float(text) for text in texts if text.strip().isdigit()), None)


def _log_retry(what: str, state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    seconds = state.next_action.sleep if state.next_action is not None else 0
    _LOG.warning("%s: %s; trying again in %.0f s", what, short(error), seconds)


def _as_ours(what: str, error: BaseException, attempts: int) -> Exception | None:
    if is_transient(error):
        return HubUnavailableError(
            f"{what}: the Hub gave no usable answer after "
            f"{'1 try' if attempts == 1 else f'{attempts} tries or {TOTAL_SECONDS:.0f} s'}: "
            f"{short(error)}; run again later: nothing is lost"
        )
    remedy = _remedy(error)
    return None if remedy is None else HubAccessError(f"{what}: {short(error)}; {remedy}")


def _remedy(error: BaseException) -> str | None:
    if isinstance(error, GatedRepoError):
        return (
            "the repository is gated: accept its terms on the Hub as the token's owner, and give the token "
            "(HF_TOKEN, or tokenSecretRef in the manifest)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private: check its name, and give a token that may read "
            "it (HF_TOKEN, or tokenSecretRef in the manifest)"
        )
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, HFValidationError):
        return "correct it"
    if isinstance(error, _BAD_ADDRESS):
        return "is the environment variable HF_ENDPOINT a base URL, such as https://huggingface.co?"
    if isinstance(error, OfflineModeIsEnabled):
        return "unset the environment variable HF_HUB_OFFLINE"
    if isinstance(error, EntryNotFoundError):
        return None
    if status_of(error) in {401, 403}:
        return "the token is wrong or may not do this: give one with the right scope"
    return None


def short(error: BaseException | None) -> str:
    """What an error says, on one line; addresses without their queries, which may hold signatures."""
    cause = None if error is None else _cause_of(error)
    text = without_queries(" ".join(str(cause).split())) or type(cause).__name__
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def login_token() -> str | None:
    """What ``hf auth login`` keeps; ``None``: nobody did."""
    return get_token()
