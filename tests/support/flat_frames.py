"""The command line with drawn pictures in place of decoded ones, for datasets that have no video.

    python -m tests.support.flat_frames run -f manifest.yaml

Only the decoder is another; it draws the time of each frame as a pattern of squares, so that no two
frames of a dataset look the same, and tells episodes apart by file and time, as their packets would.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from tests.support.many_episodes import EPISODES_A_VIDEO, FPS, HEIGHT, WIDTH

from annotationrun_worker.__main__ import main
from annotationrun_worker.video import backends
from annotationrun_worker.video.decoder import EpisodeVideo
from annotationrun_worker.video.tiles import TileSize, tiles_of

SQUARES = (4, 8)
"""Rows and columns: a bit of the frame's number each."""


class FlatDecoder:
    """Draws frames; a `Decoder`."""

    fallback_files = 0

    def frames(
        self,
        video: EpisodeVideo,
        targets_seconds: NDArray[np.float64],
        tolerances_seconds: NDArray[np.float64],
        tile: TileSize | None = None,
    ) -> NDArray[np.uint8]:
        frames = np.stack([_picture(video, target) for target in targets_seconds.tolist()])
        return frames if tile is None else tiles_of(frames, tile.width)

    def frame_size(self, video: EpisodeVideo) -> tuple[int, int]:
        return WIDTH, HEIGHT

    def packet_digest(self, video: EpisodeVideo, start_seconds: float, stop_seconds: float) -> str:
        name = f"{video.camera} {video.span.path.name} {start_seconds} {stop_seconds}"
        return hashlib.sha256(name.encode()).hexdigest()

    def close(self) -> None:
        pass


def _picture(video: EpisodeVideo, pts_seconds: float) -> NDArray[np.uint8]:
    file = int(video.span.path.stem.removeprefix("file-"))
    number = file * EPISODES_A_VIDEO * 100 + round(pts_seconds * FPS)
    rows, columns = SQUARES
    bits = np.array([number >> bit & 1 for bit in range(rows * columns)], np.uint8).reshape(SQUARES)
    grey = np.kron(bits * 255, np.ones((HEIGHT // rows, WIDTH // columns), np.uint8))
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


if __name__ == "__main__":
    backends.BACKENDS = dict.fromkeys(backends.BACKENDS, FlatDecoder)
    main()
