"""The children of a decoder, and the queue of what they have to decode.

What waits for a decoder's children, and who takes what next.

Children that decode into shared memory, each fed by a thread of its own.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.errors import DecoderLostError, DecoderSilentError, FrameDecodeError
from annotationrun_worker.video.child_process import ChildProcess, Errand, LivingChild, MisfitError
from annotationrun_worker.video.child_server import OPEN_FILES
from annotationrun_worker.video.decode_plan import Stretch, merge_targets, shares_work

OPEN_FILE_CALLS = 8
"""A call for a file that a child has open is served before calls that came so much earlier."""

SHARED_AT_ONCE = 16
"""So many callers' frames are decoded in one go at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A caller's frames of one stretch, and where they belong."""

    stretch: Stretch
    targets_seconds: NDArray[np.float64]
    tolerances_seconds: NDArray[np.float64]
    frames: NDArray[np.uint8]
    """Room for the frames, or tiles, of the whole call: (targets, height, width, 3)."""
    frame_size: tuple[int, int]
    """(width, height) of a whole frame."""

    @property
    def part(self) -> slice:
        """Of the call's frames."""
        return slice(self.stretch.start, self.stretch.stop)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Something that a child is to do; ``result`` tells how it went."""

    call: int
    """Rises from call to call."""
    path: Path
    where: Callable[[], str]
    """Whose it is, for the errors."""
    work: Frames | Callable[[LivingChild], object]
    result: "Future[object]" = field(default_factory=Future)

    def can_join(self, other: "Task") -> bool:
        """Whether both are frames of one file, some of which need the same ones decoded."""
        if not isinstance(self.work, Frames) or not isinstance(other.work, Frames):
            return False
        same_size = (
            self.work.frames.shape[1:] == other.work.frames.shape[1:]
            and self.work.frame_size == other.work.frame_size
        )
        return same_size and self.path == other.path and shares_work(self.work.stretch, other.work.stretch)


class DecodeQueue:
    """The tasks that wait; safe for any number of threads."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """Number of tasks that wait."""
        with self._changed:
            return len(self._tasks)

    def put(self, tasks: Collection[Task]) -> None:
        """Add tasks, in the order in which they are best carried out. If closed: cancel them."""
        with self._changed:
            if self._closed:
                for task in tasks:
                    task.result.cancel()
                return
            self._tasks += tasks
            self._changed.notify(len(tasks))

    def take(self, open_paths: Collection[Path]) -> list[Task]:
        """Wait for the next task of a child that has these files open; none when closed.

        Frames come together with those of other callers that share work with them.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if self._closed:
                    return []
                taken = [
                    task for task in self._chosen(open_paths) if task.result.set_running_or_notify_cancel()
                ]
                if taken:
                    return taken

    def close(self) -> None:
        """Cancel what waits; whoever takes gets nothing."""
        with self._changed:
            self._closed = True
            for task in self._tasks:
                task.result.cancel()
            self._tasks.clear()
            self._changed.notify_all()

    def _chosen(self, open_paths: Collection[Path]) -> list[Task]:
        first = min(
            self._tasks,
            # What is not about frames is short, and another call may wait for it to be planned.
            key=lambda task: (
                isinstance(task.work, Frames),
                task.call - OPEN_FILE_CALLS * (task.path in open_paths),
            ),
        )
        chosen = [first, *(task for task in self._tasks if task is not first and first.can_join(task))]
        chosen = chosen[:SHARED_AT_ONCE]
        self._tasks = [task for task in self._tasks if task not in chosen]
        return chosen


Answer = TypeVar("Answer")


class DecoderPool:
    """Living children that run ``module``; safe for any number of threads.

    ``receive`` takes the answer to a request for so many frames, and tells how many are there when more are.
    """

    def __init__(
        self,
        module: str,
        timeout_seconds: float,
        children: int,
        receive: Callable[[ChildProcess, int], Iterator[int]],
    ) -> None:
        """At most ``children``; each starts when there is something to do for it."""
        self._children = [LivingChild(module, timeout_seconds) for _ in range(children)]
        self._receive = receive
        self._queue = DecodeQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._starting = threading.Lock()
        self._calls = itertools.count()
        self._closed = False

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that run."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    @property
    def size(self) -> int:
        """Number of children at most."""
        return len(self._children)

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._closed

    @property
    def waiting(self) -> int:
        """Number of tasks that no child has begun."""
        return len(self._queue)

    def close(self) -> None:
        """Kill the children; requests under way fail. Nothing can be asked afterwards."""
        with self._starting:
            self._closed = True
            threads = list(self._threads)
        self._queue.close()
        for child in self._children:
            child.close()
        for thread in threads:
            thread.join()
        for child in self._children:
            child.drop()

    def run(self, path: Path, where: Callable[[], str], work: Callable[[LivingChild], Answer]) -> Answer:
        """Let ``work`` have a child for itself, and give its result.

        Raises:
            FrameDecodeError: the pool is closed; else what ``work`` raises.
        """
        task = Task(next(self._calls), path, where, work)
        self._carry_out([task])
        return cast(Answer, task.result.result())

    def decode(
        self,
        path: Path,
        where: Callable[[slice], str],
        stretches: Sequence[Stretch],
        targets: tuple[NDArray[np.float64], NDArray[np.float64]],
        frames: tuple[NDArray[np.uint8], tuple[int, int]],
    ) -> None:
        """Decode the frames of all stretches into room for them.

        ``targets`` are times and tolerances; ``where`` names a part of them for an error. ``frames`` are the
        room and (width, height) of a whole frame: if the room is for another width, it gets tiles.

        Raises:
            FrameSizeError: the frames are of another size.
            FrameDecodeError: some can't be decoded, or the pool is closed; see ``LivingChild.ask``.
        """
        call = next(self._calls)
        works = [Frames(stretch, *targets, *frames) for stretch in stretches]
        self._carry_out([Task(call, path, partial(where, work.part), work) for work in works])

    def _carry_out(self, tasks: Sequence[Task]) -> None:
        try:
            self._queue.put(tasks)
            self._start_threads(tasks)
            for task in tasks:
                task.result.result()
        except CancelledError:
            raise FrameDecodeError(f"{tasks[0].where()}: the decoder is closed") from None
        finally:
            for task in tasks:
                task.result.cancel()
            del task, tasks  # an error that is kept would keep the frames through them

    def _start_threads(self, tasks: Sequence[Task]) -> None:
        """Start another thread for each task that no idle one takes."""
        with self._starting:
            missing = min(len(tasks) - self._idle, len(self._children) - len(self._threads))
            for _ in range(0 if self._closed else missing):
                child = self._children[len(self._threads)]
                thread = threading.Thread(target=self._serve, args=(child,), name="decoder", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    if self._threads:
                        return  # those there are carry out everything
                    raise DecoderLostError(
                        f"{tasks[0].where()}: {error}; is there room under the limit of processes?"
                    ) from error
                self._threads.append(thread)

    def _serve(self, child: LivingChild) -> None:
        paths: deque[Path] = deque(maxlen=OPEN_FILES)
        while True:
            with self._starting:
                self._idle += 1
            tasks = self._queue.take(paths)
            with self._starting:
                self._idle -= 1
            if not tasks:
                return
            if tasks[0].path in paths:
                paths.remove(tasks[0].path)
            paths.append(tasks[0].path)
            self._carry_out_on(child, tasks)
            del tasks  # the frames of those who were answered are theirs alone

    def _carry_out_on(self, child: LivingChild, tasks: Sequence[Task]) -> None:
        try:
            if isinstance(tasks[0].work, Frames):
                self._decode_on(child, tasks)
                results: list[object] = [None] * len(tasks)
            else:
                results = [tasks[0].work(child)]
        except BaseException as error:  # noqa: BLE001  (it is raised where the result is waited for)
            known = isinstance(error, AnnotationRunError)
            if len(tasks) == 1:
                tasks[0].result.set_exception(error.with_traceback(None) if known else error)
            elif isinstance(error, DecoderSilentError):  # each of them would wait as long for nothing
                for task in tasks:
                    task.result.set_exception(DecoderSilentError(f"{task.where()}, asked with: {error}"))
            else:  # whose fault it is shows when each has its own request
                for task in tasks:
                    self._carry_out_on(child, [task])
            return
        for task, result in zip(tasks, results, strict=True):
            task.result.set_result(result)

    def _decode_on(self, child: LivingChild, tasks: Sequence[Task]) -> None:
        works = [cast(Frames, task.work) for task in tasks]
        order = merge_targets([work.targets_seconds[work.part] for work in works])
        width, height = works[0].frame_size
        slot_height, slot_width = works[0].frames.shape[1:3]
        request = {
            "op": "frames",
            "path": str(tasks[0].path),
            "targets_seconds": [float(works[n].targets_seconds[works[n].part][i]) for n, i in order],
            "tolerances_seconds": [float(works[n].tolerances_seconds[works[n].part][i]) for n, i in order],
            "width": width,
            "height": height,
            "tile_width": slot_width,
        }

        def take(process: ChildProcess) -> None:
            slots = process.memory.slots(slot_height, slot_width)
            taken = 0
            for filled in self._receive(process, len(order)):
                if not taken <= filled <= min(len(order), taken + len(slots)):
                    raise MisfitError(f"{filled} of {len(order)} frames are said to be there after {taken}")
                for number in range(taken, filled):
                    which, place = order[number]
                    work = works[which]
                    np.copyto(work.frames[work.stretch.start + place], slots[number % len(slots)])
                taken = filled

        child.ask(Errand(tasks[0].where(), tasks[0].path, request, (slot_height, slot_width)), take)
