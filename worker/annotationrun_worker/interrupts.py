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

_LINE = b"annotationrun: interrupted\n"
_STDERR = 2


def leave_when_stopped() -> None:
    """From now on either signal ends the process at once.

    An exception would not do: it can be lost in the imports, in compiled modules above all.
    """
    _handle(signal.SIGINT, _leave)
    _handle(signal.SIGTERM, _leave)


@contextmanager
def raise_when_stopped() -> Iterator[None]:
    """Within, either signal raises KeyboardInterrupt; asyncio knows Python's own handler of Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # It stays unheard, and asyncio has the handler that SIGTERM goes by.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _handle(signal.SIGTERM, _as_ctrl_c)
    try:
        yield
    finally:
        leave_when_stopped()


def _handle(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> None:
    # shells ignore SIGINT for programs in the background, and so do these
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    os.write(_STDERR, _LINE)
    os._exit(ExitCode.INTERRUPTED)


def _as_ctrl_c(signal_number: int, frame: FrameType | None) -> None:
    # while asyncio runs it takes Ctrl-C itself, and cancels what is under way instead of breaking into it
    of_ctrl_c = signal.getsignal(signal.SIGINT)
    assert callable(of_ctrl_c), "raise_when_stopped has set it"  # noqa: S101
    of_ctrl_c(signal_number, frame)
