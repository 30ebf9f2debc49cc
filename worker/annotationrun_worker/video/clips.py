"""Clips: short H.264 videos of chosen frames, for models that take a video; made once and kept.

They are encoded by the libx264 that comes with PyAV, in a child process: it is there wherever frames can be
decoded, and takes each frame with its own PTS. The frames come from the provider, so that a clip shows what
the backend gives, and cameras that are stored in the rows have clips too.
"""

import hashlib
import itertools
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, EpisodeRecord
from annotationrun_worker.errors import DatasetError, FrameDecodeError, StorageError
from annotationrun_worker.video.child_process import ChildProcess, ChildService, Errand, receive_line
from annotationrun_worker.video.frame_cache import KeyedLocks

CLIP_CHILD = "annotationrun_worker.video.clip_child"

CLIP_TIMEOUT_SECONDS = 300.0
"""For one clip, decoding included."""

TICKS_PER_SECOND = 90_000
"""Time base of the clips, as in MPEG: exact for all usual frame rates, and fine enough for odd timestamps."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Which frames of an episode are shown when."""

    episode: EpisodeIndex
    name: str
    """Of the file: ``ep_000123.mp4``."""
    frame_indices: tuple[int, ...]
    """0-based in the episode, rising."""
    pts_ticks: tuple[int, ...]
    """When each is shown, in ticks of 1 / ``TICKS_PER_SECOND`` s."""
    fps: float
    """The nominal rate that the file states."""


def clip_of_episode(episode: EpisodeRecord) -> Clip:
    """All frames, each at its timestamp less the first one's."""
    times = episode.timestamps_seconds.astype(np.float64)
    ticks = np.rint((times - times[0]) * TICKS_PER_SECOND).astype(np.int64).tolist()
    name = f"ep_{int(episode.index):06d}.mp4"
    return Clip(episode.index, name, tuple(range(episode.frame_count)), tuple(ticks), episode.fps)


def clip_of_frames(episode: EpisodeRecord, frame_indices: Sequence[int], fps: float) -> Clip:
    """The chosen frames (rising) one after the other, ``fps`` of them a second.

    Raises:
        ValueError: no frames, frames that do not rise, or an ``fps`` that is none.
    """
    indices = tuple(int(index) for index in frame_indices)
    if not indices or any(a >= b for a, b in itertools.pairwise(indices)):
        raise ValueError(f"a clip of the frames {indices}; expected at least one, in rising order")
    if not 0 < fps <= TICKS_PER_SECOND:
        raise ValueError(f"a clip with {fps} frames a second; expected more than 0")
    ticks = _even_ticks(len(indices), fps)
    digest = hashlib.sha256(json.dumps([indices, fps]).encode()).hexdigest()[:16]
    return Clip(episode.index, f"ep_{int(episode.index):06d}_{digest}.mp4", indices, ticks, fps)


def flat_clip(size: tuple[int, int], colours: Sequence[tuple[int, int, int]], fps: float) -> bytes:
    """A clip as mp4 whose frames show one colour (RGB) each, ``fps`` of them a second.

    ``size`` is (width, height) in pixels. It stands for a clip of an episode where only its size matters.

    Raises:
        FrameDecodeError: it takes too long.
        StorageError: there is no room for it.
    """
    width, height = size
    ticks = _even_ticks(len(colours), fps)
    clip = Clip(EpisodeIndex(0), "flat.mp4", tuple(range(len(colours))), ticks, fps)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for colour in colours:
            yield np.full((height, width, 3), colour, np.uint8)

    with closing(ClipStore(None)) as store:
        return store.path_of(clip, CameraKey("flat"), "flat", frames).read_bytes()


def _even_ticks(count: int, fps: float) -> tuple[int, ...]:
    return tuple(round(number * TICKS_PER_SECOND / fps) for number in range(count))


class ClipStore:
    """Makes clips and keeps them in a folder; safe for any number of threads."""

    def __init__(self, folder: Path | None, timeout_seconds: float = CLIP_TIMEOUT_SECONDS) -> None:
        """Keep them in ``folder``; None: in a temporary one that is removed on close."""
        self._folder = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._timeout_seconds = timeout_seconds
        self._service = ChildService(CLIP_CHILD, timeout_seconds)
        self._lock = threading.Lock()
        self._making: KeyedLocks[Path] = KeyedLocks()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return self._service.child_pids

    def path_of(
        self,
        clip: Clip,
        camera: CameraKey,
        fingerprint: str,
        frames: Callable[[], Iterator[NDArray[np.uint8]]],
    ) -> Path:
        """Path of the clip, which is made if it is not there: ``<folder>/<camera>/<fingerprint>/<name>``.

        ``frames`` gives the frames of ``clip`` anew with each call: uint8 (height, width, 3), RGB.

        Raises:
            DatasetError: the camera's name can't be that of a folder.
            FrameDecodeError: a frame can't be had, or it takes too long.
            StorageError: the folder can't be written.
        """
        path = self._root() / _folder_name(camera) / fingerprint / clip.name
        with self._making.held(path):
            if not path.exists():
                self._make(clip, camera, path, frames)
        return path

    def close(self) -> None:
        """End the child process, and remove what is temporary."""
        self._service.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _root(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="annotationrun-clips-")
                self._folder = Path(self._temporary.name)
            return self._folder

    def _make(
        self,
        clip: Clip,
        camera: CameraKey,
        path: Path,
        frames: Callable[[], Iterator[NDArray[np.uint8]]],
    ) -> None:
        where = f"clip of episode {clip.episode}, camera {camera!r}"
        unfinished = path.with_name(f".{path.name}.{time.monotonic_ns():x}.tmp")
        request = {
            "path": str(unfinished),
            "fps": clip.fps,
            "ticks_per_second": TICKS_PER_SECOND,
            "pts_ticks": clip.pts_ticks,
        }
        deadline = time.monotonic() + self._timeout_seconds

        def send_and_receive(child: ChildProcess) -> None:
            for number, frame in enumerate(frames()):
                if time.monotonic() > deadline:
                    raise FrameDecodeError(
                        f"{where}: not made within {self._timeout_seconds:g} s ({number} of "
                        f"{len(clip.frame_indices)} frames)"
                    )
                height, width, _ = frame.shape
                child.send_bytes(json.dumps({"width": width, "height": height}).encode() + b"\n")
                child.send_bytes(np.ascontiguousarray(frame).data.cast("B"))
            receive_line(child, "done")

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._service.ask(Errand(where, path, request), send_and_receive)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{where} can't be written to {str(path)!r}: {error}") from error


def _folder_name(camera: CameraKey) -> str:
    name = quote(camera, safe=" ")
    if name in {"", ".", ".."}:
        raise DatasetError(f"no clips can be kept of a camera named {camera!r}; rename the feature")
    return name
