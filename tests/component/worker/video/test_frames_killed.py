"""Decoders that are killed at random while many callers ask: every answer is right, and nothing is left."""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.support.video_assets import CAMERA, reference_episode, shown_number

from annotationrun_worker.video import decoder as decoder_module
from annotationrun_worker.video.decoder import DecoderProcess, EpisodeVideo
from annotationrun_worker.video.shared_frames import SharedMemory

REQUESTS = 1000
CALLERS = 8
CHILDREN = 2


class Killer:
    """Kills a child after every few answers; only one that has answered since it was started.

    So no request can lose two children: it is retried once, as a request that kills its decoder is no better
    off with a third one.
    """

    def __init__(self, decoder):
        self.kills = 0
        self._decoder = decoder
        self._draw = random.Random(8)
        self._lock = threading.Lock()
        self._answered = set()
        self._next = 10

    def note(self, pid):
        """A child has answered."""
        with self._lock:
            self._answered.add(pid)

    def strike(self, answers):
        """Kill, if it is time to."""
        with self._lock:
            living = sorted(self._answered.intersection(self._decoder.child_pids))
            if answers < self._next or not living:
                return
            pid = self._draw.choice(living)
            self._answered.remove(pid)
            self._next = answers + self._draw.randrange(5, 30)
            os.kill(pid, signal.SIGKILL)
            self.kills += 1


def memory_files():
    """Descriptors of shared memory that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += [target for target in [str(link.readlink())] if "memfd:frames" in target]
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


@pytest.fixture
def decoder():
    with DecoderProcess(children=CHILDREN) as made:
        yield made


def test_decoders_killed_at_random_cost_no_answer(monkeypatch, decoder):
    before = len(memory_files())
    killer = Killer(decoder)
    receive_frames = decoder_module.receive_frames

    def receive(child, count):
        yield from receive_frames(child, count)
        killer.note(child.pid)

    monkeypatch.setattr(decoder_module, "receive_frames", receive)
    episodes = [reference_episode(index) for index in range(6)]
    counting = threading.Lock()
    answers = 0

    def ask(number):
        nonlocal answers
        draw = np.random.default_rng([8, number])
        episode = episodes[draw.integers(len(episodes))]
        span = episode.videos[CAMERA]
        chosen = np.unique(draw.integers(0, episode.frame_count, draw.integers(1, 9)))
        targets = span.from_timestamp_seconds + episode.timestamps_seconds[chosen].astype(np.float64)
        frames = decoder.frames(
            EpisodeVideo(episode.index, CAMERA, span, episode.frame_count),
            targets,
            np.full(len(targets), 0.01),
        )
        with counting:
            answers += 1
            killer.strike(answers)
        expected = [episode.dataset_from_index + int(index) for index in chosen]
        return [shown_number(frame) for frame in frames.transpose(0, 3, 1, 2)] == expected

    assert ask(0)
    assert len(memory_files()) > before
    with ThreadPoolExecutor(CALLERS) as pool:
        right = list(pool.map(ask, range(REQUESTS)))
    assert (len(right), right.count(False)) == (REQUESTS, 0)
    assert killer.kills > 20
    pids = decoder.child_pids
    assert pids
    decoder.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert len(memory_files()) == before


def test_a_child_cannot_take_the_memory_away_from_under_us():
    memory = SharedMemory()
    try:
        memory.slots(240, 320)[0] = 7
        with pytest.raises(PermissionError):
            os.ftruncate(memory.descriptor, 0)
        assert int(memory.slots(240, 320)[0].max()) == 7
    finally:
        memory.close()
