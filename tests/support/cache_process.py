"""A process that uses a cache of files.

    python -m tests.support.cache_process use FOLDER SEED
    python -m tests.support.cache_process fetch FOLDER HUB PIECES

``use``: four threads hold files of random sizes, 1000 bytes of them at most, and the most that was there at
any time is printed. ``fetch``: it fetches the video of ``me/source``, and kills itself after PIECES pieces;
0: never.
"""

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from annotationrun_worker.hub.cache import FileCache
from annotationrun_worker.hub.repository import HubRepository

CACHE_BYTES = 1000
THREADS = 4
ROUNDS = 30


def content_of(name: str, size_bytes: int) -> bytes:
    """What the file ``name`` holds."""
    return random.Random(name).randbytes(size_bytes)


def bytes_by_name(folder: Path) -> dict[str, int]:
    """Of each file of the cache, whole or begun, the bytes that are there."""
    found: dict[str, int] = {}
    for entry in os.scandir(folder / "files"):
        try:
            size = entry.stat().st_size
        except FileNotFoundError:  # it was renamed or evicted since
            continue
        name = entry.name.removesuffix(".partial")
        found[name] = max(found.get(name, 0), size)
    return found


def use(folder: Path, seed: int) -> int:
    """The most bytes that were seen."""

    def work(thread: int) -> int:
        cache, choice, most = FileCache(folder, CACHE_BYTES), random.Random(f"{seed} {thread}"), 0
        for _ in range(ROUNDS):
            number = choice.randrange(40)
            name, size = f"file-{number}", 40 + 3 * (number % 20)
            with cache.holding(name, size, _in_pieces(name, size)) as path:
                assert path.read_bytes() == content_of(name, size)
                most = max(most, sum(bytes_by_name(folder).values()))
        return most

    with ThreadPoolExecutor(THREADS) as pool:
        return max(pool.map(work, range(THREADS)))


def _in_pieces(name: str, size: int) -> Callable[[Path], None]:
    def fetch(target: Path) -> None:
        have = target.stat().st_size if target.exists() else 0
        with target.open("ab", buffering=0) as file:
            for start in range(have, size, 10):
                file.write(content_of(name, size)[start : start + 10])

    return fetch


class KilledAfter(threading.Event):
    """Kills this process when it has been looked at so often: a transfer looks after each piece."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._left = looks

    def is_set(self) -> bool:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def fetch_video(folder: Path, hub: str, pieces: int) -> None:
    """Fetch it, and look at nothing but its size."""
    repository = HubRepository("me/source", endpoint=hub)
    commit = repository.resolve("main")
    file = repository.files(commit)["videos/a.mp4"]
    killer = KilledAfter(pieces)
    cache = FileCache(folder, file.size_bytes)
    with cache.holding(
        file.content_name, file.size_bytes, lambda path: repository.download(file, commit, path, killer)
    ):
        pass


if __name__ == "__main__":
    command, place = sys.argv[1], Path(sys.argv[2])
    if command == "use":
        print(use(place, int(sys.argv[3])))
    else:
        fetch_video(place, sys.argv[3], int(sys.argv[4]))
