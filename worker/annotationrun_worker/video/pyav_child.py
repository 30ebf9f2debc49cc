"""The decoder's child process over PyAV: ``python -m annotationrun_worker.video.pyav_child``.

Requests (see ``child_server`` for the answers)::

    {"op": "index", "path": "/x.mp4"}
    {"op": "frames", "path": "/x.mp4", "targets_seconds": [..], "tolerances_seconds": [..],
     "width": 320, "height": 240, "tile_width": 320}                                              targets rise
    {"op": "packets", "path": "/x.mp4", "start_seconds": 0.0, "stop_seconds": 4.0}

``index`` gives a ``FileIndex``, ``frames`` frames of that size, or tiles of them if ``tile_width`` is another
width, through shared memory (``shared_frames``), one for each target in their order, ``packets``
``{"sha256": "..", "packets": 9}``.
"""

from collections.abc import Mapping
from typing import BinaryIO

import av.logging

from annotationrun_worker.video.child_server import OpenFiles, Request, SignsOfLife, send_index, serve
from annotationrun_worker.video.shared_frames import FrameSender
from annotationrun_worker.video.video_file import VideoFile


def main() -> None:
    """Serve requests until the input ends."""
    # FFmpeg writes to standard error by itself: PyAV's way through Python's logging can deadlock.
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    sender = FrameSender()
    signs = SignsOfLife()
    files = OpenFiles(lambda path: VideoFile(path, signs.progress))

    def carry_out(request: Request, answers: BinaryIO) -> Mapping[str, object]:
        signs.begin(answers)
        if request["op"] == "frames":
            sender.send(request, answers, files.get)
            return {}
        file = files.get(request["path"])
        if request["op"] == "index":
            send_index(answers, file.index())
            return {}
        sha256, packets = file.packets_sha256(request["start_seconds"], request["stop_seconds"])
        return {"sha256": sha256, "packets": packets}

    serve(carry_out)


if __name__ == "__main__":
    main()
