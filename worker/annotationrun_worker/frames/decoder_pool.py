"""Children that decode into shared memory, each fed by a thread of its own."""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from annotationrun_api.errors import AnnotationRunError
from annotationrun_worker.errors import DecoderLostError, DecoderSilentError, FrameDecodeError
from annotationrun_worker.frames.child_process import ChildProcess
from annotationrun_worker.frames.decode_plan import Stretch, merge_targets
from annotationrun_worker.frames.decode_queue import DecodeQueue, Frames, Task
from annotationrun_worker.frames.living_child import Errand, LivingChild, MisfitError
from annotationrun_worker.frames.open_files import OPEN_FILES

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
