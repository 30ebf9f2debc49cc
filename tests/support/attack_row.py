"""The table of attacks that the suites print: what was tried, how it ended, what it took."""

import threading
import time
from collections.abc import Callable
from subprocess import CompletedProcess

from tests.benchmarks.measured_process import tree_pss_bytes
from tests.support.forked_command import ForkedCommand

TITLE = "attacks"
SAMPLE_SECONDS = 0.1


def attack_row(attack: str, ending: str, peak_bytes: int, seconds: float) -> str:
    """A line of the table; `ending` is an exit code or a condition."""
    return f"{attack:60} {ending:24} {peak_bytes / 2**20:6.0f} MiB {seconds:7.1f} s"


def attacked(
    printed: Callable[..., None], attack: str, *arguments: object, **environment: str
) -> CompletedProcess[str]:
    """Run `annotationrun ARGUMENTS` to its end, and print a row; the memory of its tree is sampled."""
    started = time.monotonic()
    command = ForkedCommand(*arguments, environment=environment)
    ended, peak_bytes = threading.Event(), 0

    def watch() -> None:
        nonlocal peak_bytes
        while not ended.wait(SAMPLE_SECONDS):
            peak_bytes = max(peak_bytes, tree_pss_bytes(command.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        done = command.wait()
    finally:
        ended.set()
        watcher.join()
    seconds = time.monotonic() - started
    printed(attack_row(attack, f"exit {done.returncode}", peak_bytes, seconds), TITLE)
    return done
