"""Several worker processes on one machine, each ``annotationrun annotate`` on the same plan.

They share the work through the claims in the staging store, and know nothing of each other. A worker that
dies is started again, as long as requests are answered between the deaths: what it had is staged, and what it
claimed is free at once. Workers end with the process that started them, however it ends.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.bound_process import Bounds, bound_command
from annotationrun_worker.errors import (
    ConfigurationError,
    DatasetError,
    ServerNotReadyError,
    StorageError,
    WorkerDiedError,
)
from annotationrun_worker.pipeline.annotate import Progress, allowed_failures
from annotationrun_worker.pipeline.report import EpisodeSeen, decode_event
from annotationrun_worker.staging.digests import Digest
from annotationrun_worker.video.protocol import FrameCounts
from annotationrun_worker.vlm.server import ServerFindings, Usage, sum_usages

DEATHS_IN_A_ROW: Final = 3
"""Of any worker, without an answer between them, that end the run."""
STOP_SECONDS: Final = 8.0
"""After which a worker that was told to stop is killed."""
_SAID_BYTES: Final = 16 * 1024
"""Kept of what a worker says on stderr."""

_ERRORS: Final[Mapping[int, type[AnnotationRunError]]] = {
    ExitCode.CONFIGURATION: ConfigurationError,
    ExitCode.DATASET: DatasetError,
    ExitCode.SERVER_NOT_READY: ServerNotReadyError,
    ExitCode.STORAGE: StorageError,
}
"""What a worker's exit code means for the run: another worker would end the same way."""


@dataclass(slots=True)
class WorkerPool:
    """``count`` processes of ``command``, to which ``--plan DIGEST --events`` is added."""

    count: int
    command: Sequence[str]
    """Arguments of ``annotationrun``."""
    max_failed_episodes: int | str
    """As in the manifest."""
    deaths: int = 0
    """Of workers."""
    made: int = 0
    """Results made by the workers."""
    made_twice: int = 0
    """Of those, another had staged first."""
    server: ServerFindings | None = None
    """What a worker found at the model server, the last that told; ``None``: none had to ask."""
    _failed: set[int] = field(default_factory=set)
    _usage: dict[int, Mapping[str, Usage]] = field(default_factory=dict)
    """By process."""
    _frames: dict[int, FrameCounts] = field(default_factory=dict)
    """By process."""
    _deaths_in_a_row: int = 0
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def frames(self) -> FrameCounts:
        """Of all workers, those that died included, up to what they told last."""
        return sum(self._frames.values(), FrameCounts())

    def run(self, plan: Digest, progress: Progress) -> dict[str, Usage]:
        """Have the plan worked on until no worker finds anything to take; gives what was asked.

        Raises:
            WorkerDiedError: workers die, and nothing is answered between.
            AnnotationRunError: what stopped a worker and would stop every other.
        """
        return asyncio.run(self._run(plan, progress))

    async def _run(self, plan: Digest, progress: Progress) -> dict[str, Usage]:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self.count):
                    group.create_task(self._keep_running(plan, progress))
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error
        return sum_usages(self._usage.values())

    async def _keep_running(self, plan: Digest, progress: Progress) -> None:
        """One worker after another, until one ends by itself."""
        while not self._stopped.is_set():
            exit_code, said = await self._one(plan, progress)
            if exit_code in {ExitCode.OK, ExitCode.INCOMPLETE} or self._stopped.is_set():
                return
            if exit_code in _ERRORS:
                raise _ERRORS[exit_code](said.removeprefix("annotationrun: ").strip())
            self.deaths += 1
            self._deaths_in_a_row += 1
            if self._deaths_in_a_row >= DEATHS_IN_A_ROW:
                raise WorkerDiedError(
                    f"workers died {DEATHS_IN_A_ROW} times in a row without an answer between, the last by "
                    f"{_how(exit_code)}; what was answered is staged; look for a lack of memory (lower "
                    f"spec.workers.episodeConcurrency or --workers), then run again; it said {said.strip()!r}"
                )

    async def _one(self, plan: Digest, progress: Progress) -> tuple[int, str]:
        """One worker from start to end: its exit code, and the end of what it said on stderr."""
        command = bound_command(
            [sys.executable, "-m", "annotationrun_worker", *self.command, "--plan", plan, "--events"],
            Bounds(),
        )
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.TaskGroup() as group:
                said = group.create_task(_end_of(_stream(process.stderr)))
                group.create_task(self._listen(process.pid, _stream(process.stdout), progress))
                stopping = group.create_task(self._stop_when_told(process))
                await process.wait()
                stopping.cancel()
        finally:
            await _stop(process)
        return process.returncode or 0, said.result()

    async def _stop_when_told(self, process: asyncio.subprocess.Process) -> None:
        await self._stopped.wait()
        await _stop(process)

    async def _listen(self, pid: int, stdout: asyncio.StreamReader, progress: Progress) -> None:
        async for line in stdout:
            event = decode_event(line.decode())
            match event:
                case ServerFindings():
                    self.server = event
                case FrameCounts():
                    self._frames[pid] = event
                case EpisodeSeen():
                    self._take_episode(event)
                    progress(event)
                case _:
                    self._usage[pid] = event
                    self._deaths_in_a_row = 0

    def _take_episode(self, event: EpisodeSeen) -> None:
        self.made += event.made
        self.made_twice += event.made_twice
        if event.failed:
            self._failed.add(event.episode)
        if len(self._failed) > allowed_failures(self.max_failed_episodes, event.total):
            self._stopped.set()


def _stream(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    assert stream is not None, "it was asked for"  # noqa: S101  a fact of the call above, for the type checker
    return stream


async def _end_of(stream: asyncio.StreamReader) -> str:
    kept = b""
    while piece := await stream.read(_SAID_BYTES):
        kept = (kept + piece)[-_SAID_BYTES:]
    return kept.decode(errors="replace")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End ``process``, gently first, unless it has ended."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _how(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
