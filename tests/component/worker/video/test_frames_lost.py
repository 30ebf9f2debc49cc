"""Decoders that can't be started, stay, are silent, or work long: typed errors, and nothing is leaked."""

import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.support.video_assets import CAMERA, reference_episode, reference_features, shown_number

from annotationrun_worker.dataset.types import EpisodeIndex, VideoSpan
from annotationrun_worker.errors import DecoderLostError, DecoderSilentError, FrameDecodeError
from annotationrun_worker.video import child_process
from annotationrun_worker.video import child_process as living_child
from annotationrun_worker.video.child_process import ChildProcess
from annotationrun_worker.video.decode_plan import Stretch
from annotationrun_worker.video.decoder import PYAV_CHILD, DecoderProcess, EpisodeVideo, receive_frames
from annotationrun_worker.video.decoder_pool import DecoderPool
from annotationrun_worker.video.provider import FrameSettings, VideoFrameProvider, make_frame_provider
from annotationrun_worker.video.video_file import VideoFile

UNCACHED = FrameSettings(cache_bytes=0)
LONGEST_SECONDS = 60.0
SILENT_CHILD = "import sys\nsys.stdin.read()\n"
TALKATIVE_CHILD = """
from annotationrun_worker.video import child_server, {child}
child_server.ALIVE_SECONDS = 0.0
{child}.main()
"""


def open_descriptors():
    return {int(link.name) for link in Path("/proc/self/fd").iterdir()}


def frame_zero(decoder):
    span = reference_episode(0).videos[CAMERA]
    video = EpisodeVideo(EpisodeIndex(0), CAMERA, VideoSpan(span.path, 0.0, 1.0), 30)
    return decoder.frames(video, np.zeros(1), np.full(1, 0.01))


@pytest.fixture
def child_module(monkeypatch, tmp_path):
    """Writes a module that can be run as a child."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(program):
        (tmp_path / "made_child.py").write_text(program, encoding="utf-8")
        return "made_child"

    return write


def test_a_child_that_cannot_be_started_is_a_typed_error_and_leaks_nothing(monkeypatch):
    with closing(DecoderProcess()) as decoder:
        before = open_descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(DecoderLostError, match=r"episode 0, camera .*can't be started: .*nowhere"):
                frame_zero(decoder)
        assert open_descriptors() == before
        assert shown_number(frame_zero(decoder)[0].transpose(2, 0, 1)) == 0


@pytest.mark.filterwarnings("ignore:subprocess [0-9]+ is still running:ResourceWarning")
def test_a_killed_child_that_does_not_go_at_once_is_closed_all_the_same(monkeypatch):
    monkeypatch.setattr(child_process, "EXIT_WAIT_SECONDS", 0.0)
    before = open_descriptors()
    children = [ChildProcess(PYAV_CHILD, LONGEST_SECONDS) for _ in range(3)]
    endings = {child.close() for child in children}
    assert endings <= {"killed, but not gone yet", "killed by SIGKILL"}
    assert open_descriptors() == before


def test_a_thread_that_cannot_be_started_fails_its_call_and_no_later_one(monkeypatch):
    def start(_thread):
        raise RuntimeError("can't start new thread")

    with closing(DecoderProcess()) as decoder:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(DecoderLostError, match=r"episode 0, .*can't start new thread"):
                frame_zero(decoder)
        with ThreadPoolExecutor(1) as pool:
            frames = pool.submit(frame_zero, decoder).result(LONGEST_SECONDS)
        assert shown_number(frames[0].transpose(2, 0, 1)) == 0


def test_callers_that_asked_together_do_not_wait_for_a_silent_child_one_by_one(child_module, monkeypatch):
    started = []

    def start(*arguments):
        started.append(ChildProcess(*arguments))
        return started[-1]

    monkeypatch.setattr(living_child, "ChildProcess", start)
    pool = DecoderPool(child_module(SILENT_CHILD), 1.0, 1, receive_frames)
    path = Path("a.mp4")
    queued, go = threading.Event(), threading.Event()

    def hold(_child):
        queued.set()
        assert go.wait(LONGEST_SECONDS)

    def ask(caller):
        targets = (np.zeros(1), np.ones(1))
        frames = (np.empty((1, 8, 8, 3), np.uint8), (8, 8))
        pool.decode(path, lambda _: f"caller {caller}", [Stretch(0, 1, 0, 0, 1)], targets, frames)

    with closing(pool), ThreadPoolExecutor(5) as callers:
        first = callers.submit(pool.run, path, lambda: "the first", hold)
        assert queued.wait(LONGEST_SECONDS)
        others = [callers.submit(ask, caller) for caller in range(4)]
        deadline = time.monotonic() + LONGEST_SECONDS
        while pool.waiting < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        go.set()
        first.result(LONGEST_SECONDS)
        for caller, other in enumerate(others):
            with pytest.raises(DecoderSilentError, match=rf"^caller {caller}.*no answer from the decoder"):
                other.result(LONGEST_SECONDS)
    assert len(started) == 1


def test_an_idle_decoder_keeps_no_answer():
    with closing(DecoderProcess()) as decoder:
        frames = frame_zero(decoder)
        gone = threading.Event()
        weakref.finalize(frames, gone.set)
        del frames
        assert gone.wait(LONGEST_SECONDS)


def test_signs_of_life_between_the_answers_change_none(child_module):
    module = child_module(TALKATIVE_CHILD.format(child="pyav_child"))
    episode = reference_episode(1)
    with make_frame_provider(reference_features(), FrameSettings("pyav")) as provider:
        digest = provider.packet_digest(episode, CAMERA)
    with VideoFrameProvider(reference_features(), UNCACHED, DecoderProcess(module=module)) as provider:
        frames = provider.frames_by_index(episode, range(0, 100, 7))
        assert [shown_number(frame) for frame in frames] == [120 + i for i in range(0, 100, 7)]
        assert provider.packet_digest(episode, CAMERA) == digest


def test_a_file_tells_of_its_progress_before_a_frame_is_there():
    told = []
    path = reference_episode(4).videos[CAMERA].path
    with VideoFile(str(path), lambda: told.append(None)) as file:
        next(iter(file.pictures_at([10.0], [0.02])))
        assert told
        told.clear()
        _, packets = file.packets_sha256(0.0, 4.0)
        assert len(told) >= packets > 100


def test_a_missing_file_is_no_lost_decoder(tmp_path):
    video = EpisodeVideo(EpisodeIndex(0), CAMERA, VideoSpan(tmp_path / "no.mp4", 0.0, 1.0), 30)
    with closing(DecoderProcess()) as decoder, pytest.raises(FrameDecodeError, match="is missing") as caught:
        decoder.frames(video, np.zeros(1), np.full(1, 0.01))
    assert not isinstance(caught.value, DecoderLostError)
