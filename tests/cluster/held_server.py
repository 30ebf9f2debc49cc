"""The demo's model server, which can be told to hold its answers back: its text runs in a pod of the tests.

While there is a file HOLD, only ANSWERS are given; whoever asks for more waits until the file is gone. So a
run can be stopped in the middle of its questions for as long as a test needs, on a machine of any speed.
"""

import threading
import time
from pathlib import Path

from annotationrun_worker.demo import vllm
from annotationrun_worker.demo.vlm_server import DemoVlmServer

HOLD = Path("/tmp/hold")
ANSWERS = 40
"""More than tests wait for, fewer than there are questions."""
_POLL_SECONDS = 0.05


class HeldServer(DemoVlmServer):
    """Each answer waits for `latency_seconds`, which is where it is held."""

    _given = 0
    _lock = threading.Lock()
    _latency_seconds = 0.0

    @property
    def latency_seconds(self) -> float:
        with self._lock:
            type(self)._given += 1
            is_over = self._given > ANSWERS
        while is_over and HOLD.exists():
            time.sleep(_POLL_SECONDS)
        return self._latency_seconds

    @latency_seconds.setter
    def latency_seconds(self, seconds: float) -> None:
        self._latency_seconds = seconds


if __name__ == "__main__":
    vllm.DemoVlmServer = HeldServer
    vllm.main()
