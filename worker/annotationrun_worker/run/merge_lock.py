"""One merge at a time into an output, among all that share a staging store.

The claim is held by a thread of its own, so that the merge can be interrupted at any time: its work is done
in the thread that gets the signals.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

from annotationrun_worker.staging.claims import Claims
from annotationrun_worker.staging.digests import Digest, digest_json
from annotationrun_worker.staging.heartbeats import Heartbeat, Liveness
from annotationrun_worker.staging.store import StagingStore

LOOK_AGAIN_SECONDS: Final = 1.0
"""Between two looks at a claim that another merge holds."""


@contextmanager
def merge_lock(store: StagingStore, output: str) -> Iterator[None]:
    """Hold the claim on merges into ``output``; waits while another worker that lives holds it.

    Raises:
        StorageError: the store can't be read or written.
    """
    held, done = threading.Event(), threading.Event()
    key = digest_json({"merge_into": output})
    with ThreadPoolExecutor(1, "merge-lock") as executor:
        holding = executor.submit(lambda: asyncio.run(_hold(store, key, held, done)))
        holding.add_done_callback(lambda ended: held.set())
        try:
            held.wait()
            _raise_if_failed(holding)
            yield
        finally:
            done.set()
    holding.result()


def _raise_if_failed(holding: Future[None]) -> None:
    if holding.done():
        holding.result()


async def _hold(store: StagingStore, key: Digest, held: threading.Event, done: threading.Event) -> None:
    async with Heartbeat(store) as heartbeat:
        claims = Claims(store, heartbeat.me, Liveness(store))
        while await claims.take(key) is not None:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if done.is_set():
                return
        held.set()
        try:
            await asyncio.to_thread(done.wait)
        finally:
            await claims.release(key)
