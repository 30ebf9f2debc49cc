"""A worker as a process of its own that takes claims and records failures when it is told to.

    python -m tests.support.staging_process LOCATION SECONDS

It keeps a heartbeat (one beat each SECONDS), reads commands, each a JSON object on a line, and answers each
with a line. At the end of its input it ends as a worker does.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.checkout import ROOT

from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.staging.failures import record_failure
from annotationrun_worker.staging.leases import Claims, Heartbeat, Liveness
from annotationrun_worker.staging.store import StagingStore, open_store


@dataclass
class StagingProcess:
    """The process, from outside."""

    process: subprocess.Popen[str]
    worker: str

    def tell(self, **command: Any) -> None:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        assert line, f"{self.worker} ended with {self.process.wait()}"
        return json.loads(line)

    def ask(self, **command: Any) -> Any:
        self.tell(**command)
        return self.answer()

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0


@contextmanager
def staging_processes(location: str, count: int, beat_seconds: float = 5) -> Iterator[list[StagingProcess]]:
    """So many workers, each with its first beat written."""
    command = [sys.executable, "-m", "tests.support.staging_process", location, str(beat_seconds)]
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            started.append(
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        yield [StagingProcess(process, json.loads(process.stdout.readline())) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()


async def obey(command: dict[str, Any], store: StagingStore, claims: Claims) -> Any:
    match command:
        case {"take": keys}:
            holders = {key: await claims.take(Digest(key)) for key in keys}
            return {"holders": holders, "takeovers": claims.takeovers}
        case {"release": keys}:
            return [await claims.release(Digest(key)) for key in keys]
        case {"fail": key, "token": token, "causes": causes}:
            return [(await record_failure(store, Digest(key), token, cause)).attempt for cause in causes]
    raise ValueError(command)


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def main(arguments: Sequence[str]) -> None:
    location, beat_seconds = arguments
    store = open_store(location)
    async with Heartbeat(store, float(beat_seconds)) as heartbeat:
        claims = Claims(store, heartbeat.me, Liveness(store))
        say(heartbeat.me)
        while line := await asyncio.to_thread(sys.stdin.readline):
            say(await obey(json.loads(line), store, claims))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
    os._exit(0)  # as the command line does: obstore's threads may outlast the interpreter
