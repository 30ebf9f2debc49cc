"""The child process for pictures in rows: ``python -m annotationrun_worker.video.image_child``.

Requests (see ``child_server`` for the answers), rows counted from the start of the file::

    {"op": "frames", "path": "/x.parquet", "column": "..", "root": "/dataset", "rows": [..],
     "width": 320, "height": 240}                                        rows rise; the size may be left out
    {"op": "tiles", .. as frames .., "width": 320, "height": 240, "tile_width": 224}
    {"op": "digest", "path": "/x.parquet", "column": "..", "root": "/dataset", "first_row": 0, "row_count": 9}

``frames`` gives one frame for each row, in their order, ``tiles`` tiles of frames of that size; ``digest``
gives ``{"sha256": ..}``.
"""

from collections.abc import Mapping
from typing import BinaryIO

from annotationrun_worker.video.child_server import (
    OpenFiles,
    Request,
    SignsOfLife,
    send_pictures,
    serve,
    sized,
    tiles,
)
from annotationrun_worker.video.image_file import ImageFile
from annotationrun_worker.video.tiles import TileSize


def main() -> None:
    """Serve requests until the input ends."""
    signs = SignsOfLife()
    files = OpenFiles(lambda path: ImageFile(path, signs.progress))

    def carry_out(request: Request, answers: BinaryIO) -> Mapping[str, object]:
        signs.begin(answers)
        file = files.get(request["path"])
        column, root = request["column"], request["root"]
        if request["op"] == "digest":
            sha256 = file.sha256(column, request["first_row"], request["row_count"], root)
            return {"sha256": sha256}
        pictures = file.pictures_at(column, request["rows"], root)
        if request["op"] == "tiles":
            pictures = tiles(pictures, TileSize(request["width"], request["height"], request["tile_width"]))
        elif "width" in request:
            pictures = sized(pictures, TileSize(request["width"], request["height"], request["width"]))
        send_pictures(answers, pictures)
        return {}

    serve(carry_out)


if __name__ == "__main__":
    main()
