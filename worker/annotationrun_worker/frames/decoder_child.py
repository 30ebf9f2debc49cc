"""The decoder's child process over PyAV: ``python -m annotationrun_worker.frames.decoder_child``.

Requests (see ``child_server`` for the answers)::

    {"op": "frames", "path": "/x.mp4", "targets_seconds": [..], "tolerances_seconds": [..]}    targets rise
    {"op": "packets", "path": "/x.mp4", "start_seconds": 0.0, "stop_seconds": 4.0}

``frames`` gives one frame for each target, in their order; ``packets`` ``{"sha256": "..", "packets": 9}``.
"""

from collections.abc import Mapping
from typing import BinaryIO

import av.logging

from annotationrun_worker.frames.child_server import Request, send_pictures, serve
from annotationrun_worker.frames.open_files import OpenFiles
from annotationrun_worker.frames.video_file import VideoFile


def main() -> None:
    """Serve requests until the input ends."""
    # FFmpeg writes to standard error by itself: PyAV's way through Python's logging can deadlock.
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    files = OpenFiles(VideoFile)

    def carry_out(request: Request, answers: BinaryIO) -> Mapping[str, object]:
        file = files.get(request["path"])
        if request["op"] == "packets":
            sha256, packets = file.packets_sha256(request["start_seconds"], request["stop_seconds"])
            return {"sha256": sha256, "packets": packets}
        targets, tolerances = request["targets_seconds"], request["tolerances_seconds"]
        send_pictures(answers, file.pictures_at(targets, tolerances))
        return {}

    serve(carry_out)


if __name__ == "__main__":
    main()
