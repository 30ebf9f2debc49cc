"""Damaged videos, dying decoders, many callers: an error that says what and where, or the right frames."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.support.checkout import ROOT
from tests.support.video_assets import (
    FEATURES,
    LONG_GROUPS_WITH_B_FRAMES,
    episode_in,
    overwrite,
    packet_places,
    ramp,
    reference_episode,
    reference_features,
    shown_number,
    write_video,
)

from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.video.decoder import DecoderProcess
from annotationrun_worker.video.provider import FrameSettings, VideoFrameProvider, make_frame_provider

FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")
UNCACHED = FrameSettings(cache_bytes=0)


@pytest.fixture
def video(tmp_path):
    """A copy of a reference video that a test may damage; frame i shows 1608 + i."""
    return Path(shutil.copy(reference_episode(4).videos[FRONT].path, tmp_path / "copy.mp4"))


@pytest.fixture
def made(decoder):
    return VideoFrameProvider(FEATURES, UNCACHED, decoder)


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _keep_the_beginning(path: Path) -> None:
    os.truncate(path, path.read_bytes().index(b"moov") + 2)


def _hold_text(path: Path) -> None:
    path.write_text("this is no video\n" * 100, encoding="utf-8")


def _hold_a_playlist_of_another_file(path: Path) -> None:
    other = reference_episode(4).videos[FRONT].path
    path.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:60\n#EXTINF:60,\n{other}\n#EXT-X-ENDLIST\n", encoding="utf-8"
    )


def _be_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(_remove, "is missing", id="missing"),
        pytest.param(_empty, r"is empty \(0 bytes\)", id="zero bytes"),
        pytest.param(
            _keep_the_beginning, r"moov atom not found|Invalid data", id="cut off, so that its index is lost"
        ),
        pytest.param(_hold_text, r"can't be opened as a video|Invalid data", id="no video at all"),
        pytest.param(
            _hold_a_playlist_of_another_file,
            r"can't be opened as a video|Format not on whitelist",
            id="a playlist in disguise",
        ),
        pytest.param(_be_a_folder, "can't read", id="a folder"),
    ],
)
def test_a_file_that_is_no_video_is_named_with_its_episode_and_camera(video, made, damage, says):
    damage(video)
    episode = episode_in(video, ramp(30).tolist(), 0.0, index=12)
    with pytest.raises(FrameDecodeError, match=says) as caught:
        made.frames_at(episode, [0.5])
    for part in ("episode 12", "'observation.images.front'", "at 0.500 s", str(video)):
        assert part in str(caught.value)
    assert (made.counts.asked, made.counts.failed, made.counts.decoded) == (1, 1, 0)


@pytest.mark.parametrize("content", ["zeros", "ones", "noise"])
def test_a_damaged_packet_fails_its_frames_and_no_others(video, made, content):
    position, size = packet_places(video)[100]
    filling = {"zeros": bytes(size), "ones": b"\xff" * size, "noise": np.random.default_rng(5).bytes(size)}
    overwrite(video, position, filling[content])
    episode = episode_in(video, ramp(570).tolist(), 0.0)
    with pytest.raises(FrameDecodeError, match=r"copy\.mp4.*decoding failed on the way to 3\.333333 s"):
        made.frames_by_index(episode, [100])
    with pytest.raises(FrameDecodeError):
        made.frames_by_index(episode, range(90, 110))
    others = [97, 102, 103, 569]
    assert [shown_number(made.frames_by_index(episode, [i])[0]) for i in others] == [1608 + i for i in others]


def test_a_damaged_h264_packet_gives_an_error_not_a_concealed_picture(tmp_path, made):
    path = tmp_path / "h264.mp4"
    write_video(path, range(60), ramp(60).tolist(), options=LONG_GROUPS_WITH_B_FRAMES | {"g": "30"})
    position, size = packet_places(path)[8]
    overwrite(path, position + size // 2, bytes(size - size // 2))
    episode = episode_in(path, ramp(60).tolist(), 0.0)
    with pytest.raises(FrameDecodeError):
        made.frames_by_index(episode, range(30))
    intact = made.frames_by_index(episode, range(30, 60))
    assert [shown_number(frame) for frame in intact] == list(range(30, 60))


def test_a_video_cut_off_behind_its_index_gives_what_it_holds_and_errors_for_the_rest(video, made):
    os.truncate(video, sum(packet_places(video)[300]) - 20)
    episode = episode_in(video, ramp(570).tolist(), 0.0)
    before = made.frames_by_index(episode, [0, 150, 299])
    assert [shown_number(frame) for frame in before] == [1608, 1758, 1907]
    for lost in (300, 301, 569):
        with pytest.raises(FrameDecodeError):
            made.frames_by_index(episode, [lost])


def test_a_video_that_ends_early_fails_what_is_missing(tmp_path, made):
    path = tmp_path / "short.mp4"
    write_video(path, range(20), ramp(20).tolist())
    episode = episode_in(path, ramp(25).tolist(), 0.0)
    with pytest.raises(FrameDecodeError, match=r"0\.800000 s of the file( is at 0\.633|$)"):
        made.frames_by_index(episode, [24])
    assert shown_number(made.frames_by_index(episode, [19])[0]) == 19


def test_the_first_failure_is_logged_loudly_and_all_are_counted(video, made, caplog):
    video.unlink()
    episode = episode_in(video, ramp(30).tolist(), 0.0)
    for _ in range(3):
        with pytest.raises(FrameDecodeError):
            made.frames_by_index(episode, [1, 2])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert made.counts.failed == 6


def test_a_file_that_was_replaced_is_read_anew(tmp_path, made):
    path = tmp_path / "again.mp4"
    episode = episode_in(path, ramp(10).tolist(), 0.0)
    for first in (0, 500):
        write_video(tmp_path / "new.mp4", range(first, first + 10), ramp(10).tolist())
        (tmp_path / "new.mp4").replace(path)
        assert shown_number(made.frames_by_index(episode, [3])[0]) == first + 3


def test_a_killed_child_is_replaced_and_the_next_frames_are_right():
    with DecoderProcess() as decoder, VideoFrameProvider(reference_features(), UNCACHED, decoder) as provider:
        episode = reference_episode(5)
        provider.frames_by_index(episode, [0])
        first = decoder.child_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert shown_number(provider.frames_by_index(episode, [7])[0]) == 2178 + 7
        assert decoder.child_pid not in {first, None}


def test_a_child_killed_in_mid_service_is_replaced_and_every_frame_is_right():
    with DecoderProcess() as decoder, VideoFrameProvider(reference_features(), UNCACHED, decoder) as provider:
        episode = reference_episode(5)
        provider.frames_by_index(episode, [0])
        first = decoder.child_pid
        assert first is not None
        killer = threading.Timer(0.05, os.kill, (first, signal.SIGKILL))
        killer.start()
        frames = provider.frames_by_index(episode, range(800))
        killer.join()
        assert decoder.child_pid != first, "the child was not killed while it served"
        assert [shown_number(frame) for frame in frames] == [2178 + i for i in range(800)]


def test_a_child_that_dies_twice_is_an_error_with_its_exit(monkeypatch, tmp_path):
    program = "import os, sys\nsys.stdin.readline()\nsys.stderr.write('out of luck\\n')\nos._exit(69)\n"
    (tmp_path / "dying_child.py").write_text(program, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("annotationrun_worker.video.decoder.PYAV_CHILD", "dying_child")
    provider = make_frame_provider(reference_features(), FrameSettings("pyav", cache_bytes=0))
    with pytest.raises(
        FrameDecodeError, match=r"episode 1, camera .*died 2 times \(exit code 69; .*out of luck"
    ):
        provider.frames_by_index(reference_episode(1), [0])
    provider.close()


def test_a_child_that_gives_no_answer_is_killed_and_the_next_request_is_served():
    with (
        DecoderProcess(timeout_seconds=8.0) as decoder,  # another child has to be there in this time
        VideoFrameProvider(reference_features(), UNCACHED, decoder) as provider,
    ):
        episode = reference_episode(1)
        provider.frames_by_index(episode, [0])
        stopped = decoder.child_pid
        assert stopped is not None
        assert _runs(stopped)
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(FrameDecodeError, match="no answer from the decoder for 8 s; killed by SIGKILL"):
            provider.frames_by_index(episode, [1])
        assert not _runs(stopped)
        assert shown_number(provider.frames_by_index(episode, [1])[0]) == 121


def test_closing_fails_who_waits_and_leaves_no_child():
    decoder = DecoderProcess()
    provider = VideoFrameProvider(reference_features(), UNCACHED, decoder)
    episode = reference_episode(1)
    provider.frames_by_index(episode, [0])
    child = decoder.child_pid
    assert child is not None
    assert _runs(child)
    os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(provider.frames_by_index, episode, [5])
        time.sleep(0.1)
        provider.close()
        with pytest.raises(FrameDecodeError, match="closed"):
            waiting.result()
    assert not _runs(child)
    with pytest.raises(FrameDecodeError, match="closed"):
        provider.frames_by_index(episode, [5])


def test_the_child_ends_with_its_parent(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from tests.support.video_assets import *\n"
        "from annotationrun_worker.video.provider import *\n"
        "from annotationrun_worker.video.decoder import DecoderProcess\n"
        "decoder = DecoderProcess()\n"
        "provider = VideoFrameProvider(reference_features(), FrameSettings(), decoder)\n"
        "provider.frames_by_index(reference_episode(0), [0])\n"
        "print(decoder.child_pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = _run_python(program)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 10
    while _runs(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(int(done.stdout))


def test_the_child_knows_neither_torch_nor_the_parents_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    with DecoderProcess() as decoder, VideoFrameProvider(reference_features(), UNCACHED, decoder) as provider:
        provider.frames_by_index(reference_episode(0), [0])
        process = Path(f"/proc/{decoder.child_pid}")
        maps, environment = (process / "maps").read_text(encoding="utf-8"), (process / "environ").read_bytes()
        assert "libavcodec" in maps
        assert "libtorch" not in maps
        assert b"PATH=" in environment
        assert b"HF_TOKEN" not in environment


def test_sixteen_threads_on_both_cameras_and_all_episodes_get_their_own_frames():
    provider = make_frame_provider(reference_features(), FrameSettings(cache_bytes=20 * 1024 * 1024))
    episodes = [reference_episode(i) for i in range(6)]

    def wrong_frames(worker: int) -> int:
        draw = np.random.default_rng(worker)
        wrong = 0
        for _ in range(4):
            episode = episodes[draw.integers(6)]
            chosen = draw.integers(0, episode.frame_count, 6).tolist()
            frames = provider.frames_by_index(episode, chosen, (FRONT, WRIST)[worker % 2])
            shown = [shown_number(frame) for frame in frames]
            wrong += sum(a != episode.dataset_from_index + b for a, b in zip(shown, chosen, strict=True))
        return wrong

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(wrong_frames, range(16))) == 0
    counts = provider.counts
    provider.close()
    assert counts.asked == 16 * 4 * 6 == counts.decoded + counts.from_cache
    assert counts.failed == 0


def test_sixteen_threads_that_want_the_same_frames_decode_them_once():
    provider = make_frame_provider(reference_features(), FrameSettings())
    episode = reference_episode(2)
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(provider.frames_by_index, episode, range(0, 100, 5)) for _ in range(16)]
        shown = {tuple(shown_number(frame) for frame in call.result()) for call in calls}
    provider.close()
    assert shown == {tuple(range(345, 445, 5))}
    assert provider.counts.decoded == 20


def _run_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    root = ROOT
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def _runs(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
