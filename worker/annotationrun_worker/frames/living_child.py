"""A child process that is always there: replaced if it dies, killed if it is silent."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from annotationrun_worker.dataset.layout import check_readable
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
from annotationrun_worker.frames.child_process import ChildDiedError, ChildProcess, ChildTimeoutError

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
