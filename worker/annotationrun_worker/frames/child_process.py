"""A child process that answers over pipes: bytes with a time limit, the end of its log, how it ended."""

import os
import select
import signal
import subprocess
import sys
import time
from typing import IO, cast

from annotationrun_worker.bound_process import Bounds, start_bound
from annotationrun_worker.frames.shared_frames import SharedMemory

PIPE_BYTES = 1024 * 1024
"""Larger than a frame of 640 x 480: fewer changes between the two processes than with the usual 64 KiB."""

LINE_BYTES_LIMIT = 1024 * 1024
STDERR_TAIL_BYTES = 2000
"""So much of the end of the child's log is kept for errors."""

LOG_LOOK_SECONDS = 0.5
"""So often the log is emptied while the child does not read."""

EXIT_WAIT_SECONDS = 5.0
"""Longest wait for a killed child to be gone."""

_PASSED_ENVIRONMENT = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "TMPDIR",
)


class ChildDiedError(Exception):
    """The child ended in mid-request."""


class ChildTimeoutError(Exception):
    """The child gave no sign of life in time."""


class ChildProcess:
    """``python -m module`` with pipes; for one thread at a time, but ``kill`` may come from any."""

    def __init__(self, module: str, timeout_seconds: float) -> None:
        """Start the child; OSError if that can't be done.

        It parses files of strangers: its environment holds no token, and its working folder adds no module
        (``-P``). A session of its own keeps the terminal's Ctrl-C from it; it ends when its input ends, or
        this process does.
        """
        self._timeout_seconds = timeout_seconds
        self.memory = SharedMemory()
        try:
            self._process = _started(module, self.memory.descriptor)
        except BaseException:
            self.memory.close()
            raise
        self._requests = cast(IO[bytes], self._process.stdin)
        os.set_blocking(self._requests.fileno(), False)  # a child that reads nothing must not hold us up
        self._answers = cast(IO[bytes], self._process.stdout)
        self._log = cast(IO[bytes], self._process.stderr)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._poll.register(self._log, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._requests, select.POLLOUT)
        self._unread = bytearray()
        self._tail = bytearray()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def stderr_tail(self) -> str:
        """The end of what the child wrote to standard error since the last request, on one line."""
        if not self._log.closed:
            self._ready(0)
        return " | ".join(bytes(self._tail).decode(errors="replace").split("\n")).strip(" |")

    def send(self, line: bytes) -> None:
        """Write a request line.

        Raises:
            ChildDiedError: the child is gone.
            ChildTimeoutError: it reads nothing.
        """
        self._tail.clear()
        self.send_bytes(line + b"\n")

    def send_bytes(self, content: bytes | memoryview) -> None:
        """Write what belongs to the request line sent last.

        Raises:
            ChildDiedError: the child is gone.
            ChildTimeoutError: it reads nothing.
        """
        unsent = memoryview(content)
        deadline = time.monotonic() + self._timeout_seconds
        while unsent:
            try:
                sent = os.write(self._requests.fileno(), unsent)
            except BrokenPipeError as error:
                raise ChildDiedError from error
            except BlockingIOError:
                self._ready(0)  # what it logs must not fill its pipe while it should read ours
                if not self._writable.poll(LOG_LOOK_SECONDS * 1000) and time.monotonic() >= deadline:
                    raise ChildTimeoutError from None
                continue
            unsent = unsent[sent:]
            deadline = time.monotonic() + self._timeout_seconds

    def receive_line(self) -> bytes:
        """Read a line, without its end.

        Raises:
            ChildDiedError: the child ended, or wrote something endless.
            ChildTimeoutError: nothing came in time.
        """
        while (end := self._unread.find(b"\n")) < 0:
            if len(self._unread) > LINE_BYTES_LIMIT:
                raise ChildDiedError
            self._wait_for_answer()
            received = os.read(self._answers.fileno(), PIPE_BYTES)
            if not received:
                raise ChildDiedError
            self._unread += received
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line

    def receive_into(self, buffer: memoryview) -> None:
        """Fill ``buffer`` with the next bytes.

        Raises:
            ChildDiedError: the child ended.
            ChildTimeoutError: nothing came in time.
        """
        filled = min(len(self._unread), len(buffer))
        buffer[:filled] = self._unread[:filled]
        del self._unread[:filled]
        while filled < len(buffer):
            self._wait_for_answer()
            count = os.readv(self._answers.fileno(), [buffer[filled:]])
            if not count:
                raise ChildDiedError
            filled += count

    def kill(self) -> None:
        """Kill the child, from any thread; who waits for it gets a ChildDiedError."""
        self._process.kill()

    def close(self) -> str:
        """Kill the child if it still runs, free everything, and say how it ended."""
        self._requests.close()
        self.memory.close()
        # A child that has just crashed needs a moment until its own exit code can be had.
        if self._ready(0) & select.POLLHUP:
            _wait(self._process, EXIT_WAIT_SECONDS)
        self._process.kill()
        _wait(self._process, EXIT_WAIT_SECONDS)
        self._ready(0)
        self._answers.close()
        self._log.close()
        code = self._process.returncode
        # One that waits for a device or a lost file server is gone only when that answers.
        return "killed, but not gone yet" if code is None else ending(code)

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while not self._ready(max(deadline - time.monotonic(), 0.0)):
            if time.monotonic() >= deadline:
                raise ChildTimeoutError

    def _ready(self, wait_seconds: float) -> int:
        """The poll events of the answers, 0 for none; what the log has is taken in on the way."""
        events = dict(self._poll.poll(wait_seconds * 1000))
        if events.pop(self._log.fileno(), 0):
            received = os.read(self._log.fileno(), PIPE_BYTES)
            if not received:
                self._poll.unregister(self._log)  # closed: it would be ready for ever
            self._tail += received
            del self._tail[:-STDERR_TAIL_BYTES]
        return events.get(self._answers.fileno(), 0)


def _started(module: str, descriptor: int) -> subprocess.Popen[bytes]:
    return start_bound(
        [sys.executable, "-P", "-m", module, str(descriptor)],
        Bounds(first_to_go=True),  # more of them the child asks for, which knows its library
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=PIPE_BYTES,
        start_new_session=True,
        pass_fds=[descriptor],
        env=child_environment(),
    )


def _wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def ending(return_code: int) -> str:
    """How a process ended, for people."""
    if return_code >= 0:
        return f"exit code {return_code}"
    return f"killed by {signal.Signals(-return_code).name}"


def child_environment() -> dict[str, str]:
    """What a child that parses files of strangers may know of our environment: no token is among it."""
    passed = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
    # numpy starts a thread for each core, which no child uses, and which is a quarter of its start.
    return {**passed, "OPENBLAS_NUM_THREADS": "1"}
