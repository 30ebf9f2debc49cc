"""Commands that meet an attack: what they say, and what they and their children take."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.forked_command import ForkedCommand

MOST_BYTES = 1536 * 1024**2
"""Of all processes of a command together, at any time."""
MOST_SECONDS = 60.0
LOOK_SECONDS = 0.01
KIB = 1024


@dataclass(frozen=True)
class Attacked:
    """How a command came through."""

    exit_code: int
    said: str
    peak_bytes: int
    """The most that its processes held together, each counted with the most that it held until then."""
    seconds: float


class MemoryWatch:
    """Looks at the memory of a process and its descendants until it ends."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self.peak_bytes

    def _look(self) -> None:
        while not self._done.wait(LOOK_SECONDS):
            held = sum(_most_held_bytes(pid) for pid in descendants(self._pid))
            self.peak_bytes = max(self.peak_bytes, held)


def descendants(pid: int) -> list[int]:
    """The process and all that it and its threads have started, as far as they are there."""
    found, new = [], [pid]
    while new:
        found += new
        lists = [path for parent in new for path in Path(f"/proc/{parent}/task").glob("*/children")]
        new = [int(child) for path in lists for child in _read(path).split()]
    return found


def _most_held_bytes(pid: int) -> int:
    lines = (line.split() for line in _read(Path(f"/proc/{pid}/status")).splitlines())
    return next((int(words[1]) * KIB for words in lines if words and words[0] == "VmHWM:"), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""


def attack(
    name: str,
    printed: Callable[..., None],
    *arguments: object,
    most_bytes: int = MOST_BYTES,
    most_seconds: float = MOST_SECONDS,
) -> Attacked:
    """`annotationrun ARGUMENTS`, which has to end in time, with little memory and no traceback."""
    start = time.monotonic()
    command = ForkedCommand(*arguments)
    watch = MemoryWatch(command.pid)
    done = command.wait()
    seconds, peak_bytes = time.monotonic() - start, watch.stop()
    attacked = Attacked(done.returncode, done.stderr + done.stdout, peak_bytes, seconds)
    row = f"{name:44} exit {attacked.exit_code:3} {peak_bytes / 1024**2:7.0f} MiB {seconds:6.2f} s"
    printed(row, title="attacks")
    assert "Traceback" not in attacked.said, attacked.said[-4000:]
    assert peak_bytes > 0
    assert peak_bytes <= most_bytes, row
    assert seconds <= most_seconds, row
    return attacked
