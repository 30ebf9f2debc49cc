"""What syncing costs a staging folder: answers staged in a second, synced as they are and not.

    python -m tests.benchmarks.staging [FOLDER]

FOLDER lies on the disk to measure; the current one without.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from annotationrun_worker.staging import disk
from annotationrun_worker.staging.digests import digest_json
from annotationrun_worker.staging.results import StagedAnswer, stage_answer
from annotationrun_worker.staging.store import StagingStore

ANSWERS = 400
AT_ONCE = (1, 4, 16)
ANSWER = StagedAnswer(digest_json("request"), "the gripper closes around the red block" * 10, 1000, 100)


async def stage(folder: Path, at_once: int) -> float:
    """Answers in a second."""
    store, turns = StagingStore(folder), asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with turns:
            await stage_answer(store, digest_json(number), ANSWER)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(ANSWERS):
            group.create_task(one(number))
    return ANSWERS / (time.perf_counter() - start)


def main() -> None:
    place = sys.argv[1] if len(sys.argv) > 1 else "."
    print(f"answers in a second ({ANSWERS} of {len(ANSWER.content)} characters)")
    for at_once in AT_ONCE:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            synced = asyncio.run(stage(Path(folder, "synced"), at_once))
            with patch.object(disk.os, "fsync", lambda descriptor: None):
                unsynced = asyncio.run(stage(Path(folder, "not"), at_once))
        print(f"{at_once:3} at once: {synced:6.0f} synced, {unsynced:6.0f} not synced")


if __name__ == "__main__":
    main()
