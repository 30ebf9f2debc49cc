"""Children end with the process that started them, whatever they do, and take no more than they may."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.support.process_tree import is_there
from tests.support.video_assets import CAMERA, reference_episode

from annotationrun_worker.bound_launcher import FIRST_TO_GO
from annotationrun_worker.bound_process import Bounds, bound_command, start_bound
from annotationrun_worker.dataset.types import EpisodeIndex, VideoSpan
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.video.child_process import ChildProcess
from annotationrun_worker.video.decoder import DecoderProcess, EpisodeVideo

LONGEST_SECONDS = 30.0
MODULES = ("pyav_child", "image_child", "clip_child", "torchcodec_child")
BUSY = "import ctypes, sys; sys.stdin.close(); print('busy', flush=True); ctypes.PyDLL(None).sleep(600)"
"""In native code, with Python's lock held: no thread and no end of the input is seen."""
WORKER = """
import sys, threading, time
from annotationrun_worker.bound_process import Bounds, start_bound
from annotationrun_worker.video.child_process import ChildProcess
children = []
def start():
    children.extend(ChildProcess(f"annotationrun_worker.video.{module}", 60.0) for module in sys.argv[2:])
    children.append(start_bound([sys.executable, "-c", sys.argv[1]], Bounds(first_to_go=True)))
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(*(child.pid for child in children), flush=True)
time.sleep(600)
"""


def wait_until(is_so) -> float:
    """Seconds until it is."""
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < LONGEST_SECONDS
        time.sleep(0.01)
    return time.monotonic() - start


def became(pid: int, word: str) -> bool:
    """Whether the launcher has become the program that was wanted."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[1] == b"-c" or word.encode() in words[:4]


@pytest.fixture
def worker():
    """A process with a child of each kind, all started by a thread that has ended, and one that is busy."""
    command = [sys.executable, "-c", WORKER, BUSY, *MODULES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        assert process.stdout.readline() == "busy\n"
        yield process, pids
        process.kill()
        for pid in filter(is_there, pids):
            os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_takes_its_children_with_it_however_busy_they_are(worker, printed):
    process, pids = worker
    for pid, module in zip(pids, [*MODULES, ""], strict=True):
        wait_until(lambda pid=pid, module=module: became(pid, f"annotationrun_worker.video.{module}"))
    for pid in pids:  # else the end of its input could be what ends it
        os.kill(pid, signal.SIGSTOP)
    assert all(map(is_there, pids)), "none ended with the thread that started it"
    process.kill()
    seconds = wait_until(lambda: not any(map(is_there, pids)))
    assert seconds < 5.0
    printed(f"{'worker killed, 5 busy children':44} children gone  {seconds:6.2f} s", title="attacks")


def test_a_child_whose_parent_is_gone_before_it_can_ask_does_not_begin(tmp_path):
    said = tmp_path / "said"
    command = bound_command(["touch", str(said)], Bounds())
    strangers = [
        *command[: command.index(str(os.getpid()))],
        "1",
        *command[command.index(str(os.getpid())) + 1 :],
    ]
    assert subprocess.run(strangers, check=False).returncode == 0
    assert not said.exists()
    assert subprocess.run(command, check=False).returncode == 0
    assert said.exists()


def test_a_child_outlives_the_thread_that_started_it():
    with ThreadPoolExecutor(1) as pool:
        process = pool.submit(start_bound, ["sleep", "600"], Bounds()).result()
    wait_until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep"))
    assert "process-starter" in {thread.name for thread in threading.enumerate()}
    time.sleep(0.2)
    assert process.poll() is None
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_program_that_is_not_there_is_said():
    command = ["/nowhere/ffmpeg", "-i"]
    process = start_bound(command, Bounds(), stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=LONGEST_SECONDS)
    assert (process.returncode, said) == (
        127,
        b"/nowhere/ffmpeg can't be started: No such file or directory\n",
    )


def test_the_limits_are_those_of_the_program():
    program = "from resource import *; print(*getrlimit(RLIMIT_AS), *getrlimit(RLIMIT_CPU))"
    bounds = Bounds(memory_bytes=1024**3, cpu_seconds=7, first_to_go=True)
    process = start_bound([sys.executable, "-c", program], bounds, stdout=subprocess.PIPE)
    told, _ = process.communicate(timeout=LONGEST_SECONDS)
    assert told.split() == [b"%d" % (1024**3)] * 2 + [b"7"] * 2


@pytest.mark.parametrize("module", MODULES)
def test_a_child_goes_before_the_worker_when_memory_runs_out(module):
    child = ChildProcess(f"annotationrun_worker.video.{module}", LONGEST_SECONDS)
    try:
        score = Path(f"/proc/{child.pid}/oom_score_adj")
        wait_until(lambda: int(score.read_text(encoding="ascii")) >= FIRST_TO_GO)
        assert int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii")) < FIRST_TO_GO
        limits = Path(f"/proc/{child.pid}/limits")
        wait_until(
            lambda: "unlimited" not in limits.read_text(encoding="utf-8").split("Max address space")[1][:30]
        )
    finally:
        child.close()


GREEDY = """
from annotationrun_worker.video.child_server import serve
def carry_out(request, answers):
    return {"bytes": len(bytearray(request["bytes"]))}
serve(carry_out)
"""
ENDLESS = """
from annotationrun_worker.video import child_server
child_server.REQUEST_CPU_SECONDS = 1
def carry_out(request, answers):
    while request["path"]:
        pass
child_server.serve(carry_out)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Starts a child that runs a program."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    started = []

    def start(program):
        (tmp_path / "made_child.py").write_text(program, encoding="utf-8")
        started.append(ChildProcess("made_child", LONGEST_SECONDS))
        return started[-1]

    yield start
    for process in started:
        process.close()


def test_what_takes_too_much_memory_is_refused_and_the_child_lives_on(child):
    process = child(GREEDY)
    for size, answer in ((2 * 1024**3, "error"), (1024**2, "done")):
        process.send(json.dumps({"bytes": size}).encode())
        assert answer in (told := json.loads(process.receive_line()))
        assert answer == "done" or told["error"]["kind"] == "memory"


def test_a_request_that_burns_the_processor_ends(monkeypatch, tmp_path):
    (tmp_path / "made_child.py").write_text(ENDLESS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    span = reference_episode(0).videos[CAMERA]
    video = EpisodeVideo(EpisodeIndex(0), CAMERA, VideoSpan(span.path, 0.0, 1.0), 30)
    with (
        closing(DecoderProcess(module="made_child", timeout_seconds=LONGEST_SECONDS)) as decoder,
        pytest.raises(FrameDecodeError, match=r"died .*SIGXCPU"),
    ):
        decoder.frames(video, np.zeros(1), np.full(1, 0.01))
