"""The frame of every child process of this package: requests in, answers out, until the input ends.

A request is a JSON line on standard input. The answer is one or more JSON lines on standard output, the last
of which is one of::

    {"done": {...}}                                     the request is carried out
    {"error": {"kind": "decode", "message": "..."}}     it is not; the child waits for the next one

A child dies with its parent, as its input ends then. A crash of a library takes the child and nothing else.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

Request = Mapping[str, Any]


class RefusedError(Exception):
    """What was asked can't be had; ``kind`` is a word for programs, the text is for people.

    Kinds: ``open`` (the file can't be opened), ``read``, ``decode`` (damaged, or nothing that the library
    knows), ``no_frame`` (no frame near the time asked for), ``write``, ``not_installed``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def serve(carry_out: Callable[[Request, BinaryIO], Mapping[str, object]]) -> None:
    """Serve requests until the input ends; ``carry_out`` returns what goes into ``done``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    # The answers get a descriptor of their own; what a library prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        try:
            result = carry_out(json.loads(line), answers)
        except RefusedError as error:
            send(answers, {"error": {"kind": error.kind, "message": str(error)}})
        else:
            send(answers, {"done": result})
        answers.flush()


def send(answers: BinaryIO, answer: Mapping[str, object]) -> None:
    """Write one line of an answer."""
    answers.write(json.dumps(answer).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame."""

    place: str
    """Where it was, for people: ``3.367 s of the file``."""
    width: int
    height: int
    rgb: bytes | memoryview
    """height x width x 3 bytes, RGB, row by row."""


def send_pictures(answers: BinaryIO, pictures: Iterable[Picture]) -> None:
    """Answer with frames: for each a JSON line, then its bytes.

    The line is ``{"frame": {"place": "3.367 s of the file", "width": 320, "height": 240}}``.
    """
    for picture in pictures:
        line = {"place": picture.place, "width": picture.width, "height": picture.height}
        send(answers, {"frame": line})
        answers.write(picture.rgb)
        answers.flush()
