"""The queue before the decoder's children: who is served next, and who shares the work of others."""

import threading
from pathlib import Path

import numpy as np

from annotationrun_worker.video.decode_plan import Stretch
from annotationrun_worker.video.decoder_pool import (
    OPEN_FILE_CALLS,
    SHARED_AT_ONCE,
    DecodeQueue,
    Frames,
    Task,
)

ONE, OTHER = Path("one.mp4"), Path("other.mp4")


def task(call, path=ONE, groups=(0, 0), size=(4, 4), frame_size=(4, 4)):
    frames = np.empty((1, *size, 3), np.uint8)
    work = Frames(Stretch(0, 1, *groups, frames=1), np.zeros(1), np.ones(1), frames, frame_size)
    return Task(call, path, lambda: "a test", work)


def queue_of(*tasks):
    queue = DecodeQueue()
    queue.put(tasks)
    return queue


def test_calls_are_served_in_their_order():
    first, second = task(0, groups=(0, 0)), task(1, groups=(1, 1))
    queue = queue_of(second, first)
    assert queue.take([]) == [first]
    assert queue.take([]) == [second]


def test_a_file_that_is_open_comes_first_but_not_for_ever():
    older, near, far = task(0, OTHER), task(OPEN_FILE_CALLS - 1), task(OPEN_FILE_CALLS + 1, groups=(5, 5))
    assert queue_of(older, near).take([ONE]) == [near]
    assert queue_of(older, far).take([ONE]) == [older]


def test_who_wants_the_same_group_of_the_same_file_shares_the_work():
    first, same, other_group, other_file = task(0), task(3), task(4, groups=(1, 2)), task(5, OTHER)
    other_size, tiles = task(6, size=(8, 8)), task(7, frame_size=(8, 8))
    queue = queue_of(first, same, other_group, other_file, other_size, tiles)
    assert queue.take([]) == [first, same]
    assert queue.take([]) == [other_group]


def test_not_more_than_so_many_share():
    queue = queue_of(*(task(number) for number in range(SHARED_AT_ONCE + 1)))
    assert len(queue.take([])) == SHARED_AT_ONCE
    assert len(queue.take([])) == 1


def test_what_plans_are_made_of_goes_before_frames():
    asked = Task(7, ONE, lambda: "a test", lambda child: None)
    assert queue_of(task(0), asked).take([]) == [asked]


def test_a_cancelled_task_is_not_carried_out():
    gone, there = task(0), task(1, groups=(1, 1))
    queue = queue_of(gone, there)
    gone.result.cancel()
    assert queue.take([]) == [there]


def test_closing_cancels_what_waits_and_sends_the_children_home():
    waiting = task(0)
    queue = queue_of(waiting)
    taken = []
    thread = threading.Thread(target=lambda: taken.extend([queue.take([]), queue.take([])]))
    thread.start()
    queue.close()
    thread.join(20)
    assert taken[-1] == []
    late = task(1)
    queue.put([late])
    assert late.result.cancelled()
    assert waiting.result.cancelled() or taken[0] == [waiting]
