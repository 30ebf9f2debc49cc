"""Child processes that answer requests, as the process that starts them sees them.

A child process that answers over pipes: bytes with a time limit, the end of its log, how it ended.

A child process that is always there: replaced if it dies, killed if it is silent.

Requests to living child processes, each of which serves one at a time.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.bound_process import Bounds, start_bound
from annotationrun_worker.dataset.layout import check_readable
from annotationrun_worker.dataset.types import FRAME_PIXELS_LIMIT
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    DecoderLostError,
    DecoderSilentError,
    FrameDamagedError,
    FrameDecodeError,
    FrameMissingError,
    FrameSizeError,
    StorageError,
)
from annotationrun_worker.video.shared_frames import SharedMemory

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


_LOG = logging.getLogger(__name__)

TRIES = 2
"""A child that died may have been killed for a reason of its own: one more try, on a fresh one."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Errand:
    """One request, and what an error says of it."""

    where: str
    """Whose frames, for the errors."""
    path: Path
    """The file that it is about."""
    request: Mapping[str, object]
    frame_size: tuple[int, int] | None = None
    """(height, width) of the frames that come through shared memory; None: none do."""


class LivingChild:
    """Room for one child that runs ``module``; for one thread at a time, but ``close`` may come from any."""

    def __init__(self, module: str, timeout_seconds: float) -> None:
        """None starts before the first request."""
        self._module = module
        self._timeout_seconds = timeout_seconds
        self._child: ChildProcess | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def close(self) -> None:
        """Kill it: a request under way fails, and nothing can be asked afterwards."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()

    def drop(self) -> str:
        """Free the child; how it ended, with the end of its log."""
        child, self._child = self._child, None
        if child is None:
            return "it had ended"
        end = child.close()
        tail = child.stderr_tail()
        return f"{end}; it wrote: {tail}" if tail else end

    def ask(self, errand: Errand, receive: Callable[[ChildProcess], Answer]) -> Answer:
        """Send the request and give what ``receive`` makes of the answer.

        Raises:
            FrameMissingError: there is no frame near the time asked for.
            FrameDecodeError: the child refuses.
            DecoderLostError: it has died twice, is silent (DecoderSilentError), or can't be started.
            FrameSizeError: the frames have another size than the request says.
            ConfigurationError: the child's library is not installed.
            StorageError: the child can't write its file.
        """
        line = json.dumps(errand.request).encode()
        for tries_left in reversed(range(TRIES)):
            if self._closed:
                break
            child = self._started(errand)
            try:
                child.send(line)
                return receive(child)
            except RefusedAnswerError as refusal:
                _raise_refusal(refusal, errand, child.stderr_tail())
            except ChildTimeoutError as error:
                child.kill()
                raise DecoderSilentError(
                    f"{errand.where}: no answer from the decoder for {self._timeout_seconds:g} s; "
                    f"{self.drop()}"
                ) from error
            except MisfitError as error:
                self.drop()
                raise FrameDecodeError(f"{errand.where}: {error}") from error
            except ChildDiedError as error:
                end = self.drop()
                if not tries_left and not self._closed:
                    raise DecoderLostError(
                        f"{errand.where}: the decoder's process died {TRIES} times ({end}); check the file, "
                        "and the memory that the worker may use"
                    ) from error
                _LOG.warning("%s: the decoder's process died (%s); trying once more", errand.where, end)
            except BaseException:
                self.drop()  # its answer is half read: the rest would be taken for the next one
                raise
        raise FrameDecodeError(f"{errand.where}: the decoder is closed")

    def _started(self, errand: Errand) -> ChildProcess:
        """The child, with memory for the frames of the errand."""
        try:
            if self._child is None:
                self._child = ChildProcess(self._module, self._timeout_seconds)
                if self._closed:
                    self._child.kill()  # it was not there yet when all were
            if errand.frame_size is not None:
                self._child.memory.slots(*errand.frame_size)
        except OSError as error:
            self.drop()
            raise DecoderLostError(
                f"{errand.where}: the decoder's process can't be started: {error}; is there memory left, and "
                "room under the limits of processes and open files?"
            ) from error
        return self._child


class MisfitError(Exception):
    """The child's answer is none that frames can be made of."""


class RefusedAnswerError(Exception):
    """The child is well, and says why the request can't be carried out."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(answer["message"])
        self.answer = answer


def receive_line(child: ChildProcess, expected: str) -> Mapping[str, Any]:
    """The next line of the answer, which is ``expected`` or an error."""
    content: Mapping[str, Any] = receive_answer(child)[expected]
    return content


def receive_answer(child: ChildProcess) -> Mapping[str, Any]:
    """The next line of the answer, whatever it is; an error is raised, signs of life are passed over."""
    answer: Mapping[str, Any] = json.loads(child.receive_line())
    while "alive" in answer:
        answer = json.loads(child.receive_line())
    if "error" in answer:
        raise RefusedAnswerError(answer["error"])
    return answer


def _raise_refusal(refusal: RefusedAnswerError, errand: Errand, tail: str) -> NoReturn:
    told = refusal.answer
    if told["kind"] == "open":
        try:
            check_readable(errand.path, errand.where)
        except DatasetError as error:
            raise FrameDecodeError(str(error)) from refusal
    if told["kind"] == "not_installed":
        raise ConfigurationError(str(refusal)) from refusal
    if told["kind"] == "write":
        raise StorageError(f"{errand.where}, file {str(errand.path)!r}: {refusal}") from refusal
    if told["kind"] == "size":
        raise FrameSizeError(f"{errand.where}: {refusal}", told["width"], told["height"]) from refusal
    kinds = {"no_frame": FrameMissingError, "decode": FrameDamagedError}
    kind = kinds.get(told["kind"], FrameDecodeError)
    log = f"; the decoder wrote: {tail}" if tail else ""
    raise kind(f"{errand.where}: {refusal}{log}") from refusal


FRAME_BYTES_LIMIT = 3 * FRAME_PIXELS_LIMIT
"""More than this is a broken answer."""


@dataclass(slots=True, eq=False)
class _Place:
    """A child, and what it has open."""

    child: LivingChild
    last_path: Path | None = None


class ChildService:
    """Child processes that run ``module``; safe for any number of threads.

    A child that dies in mid-request is replaced once; one that gives no sign of life for ``timeout_seconds``
    is killed, and the request fails.
    """

    def __init__(self, module: str, timeout_seconds: float, children: int = 1) -> None:
        """At most ``children`` at once; none starts before the first request."""
        self._places = [_Place(LivingChild(module, timeout_seconds)) for _ in range(children)]
        self._idle = list(self._places)
        self._changed = threading.Condition()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [pid for place in self._places if (pid := place.child.pid) is not None]

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        for place in self._places:
            place.child.close()
        with self._changed:
            self._changed.wait_for(lambda: len(self._idle) == len(self._places))
            for place in self._places:
                place.child.drop()

    def ask(self, errand: Errand, receive: Callable[[ChildProcess], Answer]) -> Answer:
        """Send the request to a child; see ``LivingChild.ask``."""
        with self._borrowed(errand.path) as place:
            return place.child.ask(errand, receive)

    @contextmanager
    def _borrowed(self, path: Path) -> Iterator[_Place]:
        """A place for this thread alone; if possible the one whose child has ``path`` open."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle)
            place = next((p for p in self._idle if p.last_path == path), None)
            # Else one that runs already, before another child is started.
            place = place or next((p for p in self._idle if p.child.pid is not None), self._idle[0])
            self._idle.remove(place)
        place.last_path = path
        try:
            yield place
        finally:
            with self._changed:
                self._idle.append(place)
                self._changed.notify_all()


def receive_frames(child: ChildProcess, count: int) -> NDArray[np.uint8]:
    """``count`` frames of one size: uint8 of shape (count, height, width, 3), RGB."""
    header = receive_line(child, "frame")
    width, height = header["width"], header["height"]
    if not 0 < height * width * 3 <= FRAME_BYTES_LIMIT:
        raise MisfitError(f"a frame of {width} x {height} pixels is out of bounds")
    frames = np.empty((count, height, width, 3), dtype=np.uint8)
    for number in range(count):
        if number:
            header = receive_line(child, "frame")
        if (header["width"], header["height"]) != (width, height):
            raise MisfitError(
                f"the size changes, from {width} x {height} to {header['width']} x {header['height']} "
                f"pixels at {header['place']}"
            )
        child.receive_into(memoryview(frames[number]).cast("B"))
    receive_line(child, "done")
    return frames
