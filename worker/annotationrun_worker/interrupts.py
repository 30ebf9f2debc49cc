"""Ctrl-C and SIGTERM: both end the program with exit code 130 and one line, whenever they come.

While nothing is begun, or all is done, they end it at once. While a command works they raise
KeyboardInterrupt, so that it can give back what it holds.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from annotationrun_api.exit_codes import ExitCode

Handler = Callable[[int, FrameType | None], object]

_LINE = b"annotationrun: interrupted\n"
_STDERR = 2


def leave_when_stopped() -> None:
    """From now on either signal ends the process at once; to be called before there are other threads.

    An exception would not do: it can be lost in the imports, in compiled modules above all.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells ignore it for programs in the background. Blocked it stays unheard too, here and in the
        # threads to come, and asyncio finds the handler that it takes SIGTERM by.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    _handle_both(_leave, _leave)


@contextmanager
def raise_when_stopped() -> Iterator[None]:
    """Within, either signal raises KeyboardInterrupt; asyncio knows Python's own handler of Ctrl-C."""
    _handle_both(signal.default_int_handler, _as_ctrl_c)
    try:
        yield
    finally:
        _handle_both(_leave, _leave)


def _handle_both(of_ctrl_c: Handler, of_sigterm: Handler) -> None:
    signal.signal(signal.SIGINT, of_ctrl_c)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, of_sigterm)


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    os.write(_STDERR, _LINE)
    os._exit(ExitCode.INTERRUPTED)


def _as_ctrl_c(signal_number: int, frame: FrameType | None) -> None:
    # while asyncio runs it takes Ctrl-C itself, and cancels what is under way instead of breaking into it
    of_ctrl_c = signal.getsignal(signal.SIGINT)
    assert callable(of_ctrl_c), "raise_when_stopped has set one"  # noqa: S101
    of_ctrl_c(signal_number, frame)
