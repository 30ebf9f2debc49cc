"""The decoder's child process: ``python -m annotationrun_worker.frames.decoder_child``.

It reads one JSON request a line from standard input and answers on standard output; it ends when its input
ends, so it dies with its parent. A crash of the video libraries takes this process and nothing else.

Requests::

    {"op": "frames", "path": "/x.mp4", "targets_seconds": [..], "tolerances_seconds": [..]}    targets rise
    {"op": "packets", "path": "/x.mp4", "start_seconds": 0.0, "stop_seconds": 4.0}

Answers, each a JSON line; a frame's is followed by ``height * width * 3`` bytes (RGB, row by row)::

    {"frame": {"pts_seconds": 0.5, "width": 320, "height": 240}}      one for each target, in their order
    {"done": {...}}                                                   the request is carried out
    {"error": {"kind": "decode", "message": "..."}}                   it is not; the child waits for the next
"""

import json
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO

import av.logging

from annotationrun_worker.frames.video_file import VideoFile, VideoFileError

OPEN_FILES = 4
"""So many files stay open, each with a decoder: two cameras of two neighbouring files."""


class OpenFiles:
    """The files used last, kept open; a file that was replaced on disk is opened again."""

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[str, int, int, int], VideoFile] = OrderedDict()

    def get(self, path: str) -> VideoFile:
        """Return the open file at ``path``.

        Raises:
            VideoFileError: it is missing, unreadable or no video.
        """
        try:
            status = os.stat(path)  # noqa: PTH116  (the path came as text and goes to FFmpeg as text)
        except OSError as error:
            raise VideoFileError("open", f"can't be read: {error.strerror}") from error
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        file = self._files.pop(key, None)
        if file is None:
            while len(self._files) >= OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            file = VideoFile(path)
        self._files[key] = file
        return file


def main() -> None:
    """Serve requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    # The answers get a descriptor of their own; what a library prints goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # FFmpeg writes to standard error by itself: PyAV's way through Python's logging can deadlock.
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    files = OpenFiles()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            result = _serve(files, request, answers)
        except VideoFileError as error:
            _send(answers, {"error": {"kind": error.kind, "message": str(error)}})
        else:
            _send(answers, {"done": result})
        answers.flush()


def _serve(files: OpenFiles, request: Mapping[str, Any], answers: BinaryIO) -> dict[str, object]:
    file = files.get(request["path"])
    if request["op"] == "packets":
        sha256, packets = file.packets_sha256(request["start_seconds"], request["stop_seconds"])
        return {"sha256": sha256, "packets": packets}
    for picture in file.pictures_at(request["targets_seconds"], request["tolerances_seconds"]):
        shape = {"pts_seconds": picture.pts_seconds, "width": picture.width, "height": picture.height}
        _send(answers, {"frame": shape})
        answers.write(picture.rgb)
        answers.flush()
    return {}


def _send(answers: BinaryIO, answer: Mapping[str, object]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
