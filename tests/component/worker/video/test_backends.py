"""The backends of `frames.backend`: the same pictures from each, and what happens where one can't be used."""

import logging
import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.component.worker.video.frames_stress import stress
from tests.support.video_assets import (
    CAMERA,
    FEATURES,
    episode_in,
    overwrite,
    packet_places,
    ramp,
    reference_episode,
    reference_features,
    shown_number,
    write_video,
)

from annotationrun_worker.errors import ConfigurationError, FrameDecodeError, FrameMissingError
from annotationrun_worker.video import decoder as decoder_module
from annotationrun_worker.video.backends import make_decoder
from annotationrun_worker.video.decoder import DecoderProcess
from annotationrun_worker.video.ffmpeg_decoder import FfmpegDecoder
from annotationrun_worker.video.provider import FrameSettings, VideoFrameProvider, make_frame_provider

UNCACHED = FrameSettings(cache_bytes=0)
CHOSEN = [0, 1, 44, 60, 118]
DYING_CHILD = "import os, sys\nsys.stdin.readline()\nos._exit(69)\n"
REFUSING_CHILD = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"error": {"kind": "open", "message": "no decoder for it"}}), flush=True)
"""


@pytest.fixture
def dying_pyav(monkeypatch, tmp_path):
    """PyAV's child crashes on whatever it is asked."""
    (tmp_path / "dying_child.py").write_text(DYING_CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("annotationrun_worker.video.decoder.PYAV_CHILD", "dying_child")


@pytest.fixture
def refusing_pyav(monkeypatch, tmp_path):
    """PyAV's child is well, and can't decode whatever it is asked."""
    (tmp_path / "refusing_child.py").write_text(REFUSING_CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("annotationrun_worker.video.decoder.PYAV_CHILD", "refusing_child")


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Puts a shell script into the place of the ffmpeg program."""

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (folder / "ffmpeg").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


def fallback_messages(caplog):
    return [
        record.getMessage() for record in caplog.records if "by the ffmpeg program" in record.getMessage()
    ]


@pytest.fixture(scope="module")
def by_pyav():
    with closing(make_frame_provider(reference_features(), FrameSettings("pyav"))) as provider:
        return provider.frames_by_index(reference_episode(0), CHOSEN).numpy()


def test_every_backend_gives_the_same_pixels(decoder, by_pyav):
    """8-bit yuv420p, as LeRobot records it: not one value differs."""
    provider = VideoFrameProvider(reference_features(), UNCACHED, decoder)
    assert np.array_equal(provider.frames_by_index(reference_episode(0), CHOSEN).numpy(), by_pyav)


def test_ten_bit_pictures_differ_by_rounding_alone(tmp_path, decoder):
    """The FFmpeg libraries differ between the backends: the edges of blocks by up to 24 of 255."""
    path = tmp_path / "ten.mp4"
    options = {"preset": "ultrafast", "x265-params": "log-level=0"}
    write_video(path, range(10), ramp(10).tolist(), "libx265", "yuv420p10le", options)
    episode = episode_in(path, ramp(10).tolist(), 0.0)
    with closing(make_frame_provider(FEATURES, FrameSettings("pyav"))) as pyav:
        expected = pyav.frames_by_index(episode, [5]).numpy().astype(np.int16)
    found = VideoFrameProvider(FEATURES, UNCACHED, decoder).frames_by_index(episode, [5]).numpy()
    differences = np.abs(found.astype(np.int16) - expected)
    assert differences.mean() < 0.5
    assert differences.max() <= 32


def test_the_packet_digest_does_not_depend_on_the_backend(decoder):
    episode = reference_episode(1)
    with closing(make_frame_provider(reference_features(), FrameSettings("pyav"))) as pyav:
        expected = pyav.packet_digest(episode, CAMERA)
    assert (
        VideoFrameProvider(reference_features(), UNCACHED, decoder).packet_digest(episode, CAMERA) == expected
    )


def test_sixteen_threads_of_random_requests_get_right_frames_only(backend):
    """Longer: `python -m tests.component.worker.video.frames_stress`."""
    counts = stress(backend, seconds=3.0)
    assert counts.decoded > 16
    assert (counts.wrong, counts.failed, counts.crashes) == (0, 0, 0)


def test_a_file_that_pyav_cannot_decode_goes_to_the_ffmpeg_program(refusing_pyav, caplog):
    caplog.set_level(logging.WARNING)
    one, other = reference_episode(0), reference_episode(4)
    assert one.videos[CAMERA].path != other.videos[CAMERA].path
    with closing(make_frame_provider(reference_features(), UNCACHED)) as provider:
        for _ in range(2):
            assert shown_number(provider.frames_by_index(one, [17])[0]) == 17
        assert (provider.counts.fallback_files, len(fallback_messages(caplog))) == (1, 1)
        assert shown_number(provider.frames_by_index(other, [5])[0]) == other.dataset_from_index + 5
        assert (provider.counts.fallback_files, len(fallback_messages(caplog))) == (2, 2)
        assert (provider.counts.decoded, provider.counts.failed) == (3, 0)
    assert str(one.videos[CAMERA].path) in fallback_messages(caplog)[0]


def test_where_pyav_dies_the_ffmpeg_program_stands_in_but_is_given_no_file(dying_pyav, caplog):
    caplog.set_level(logging.WARNING)
    with closing(make_frame_provider(reference_features(), UNCACHED)) as provider:
        for number in (17, 18):
            assert shown_number(provider.frames_by_index(reference_episode(0), [number])[0]) == number
        assert provider.counts.fallback_files == 0
    assert len(fallback_messages(caplog)) == 2
    assert "died 2 times" in fallback_messages(caplog)[0]


def test_without_the_ffmpeg_program_the_first_error_stands(dying_pyav, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        closing(make_frame_provider(reference_features(), UNCACHED)) as provider,
        pytest.raises(FrameDecodeError, match=r"died 2 times \(exit code 69"),
    ):
        provider.frames_by_index(reference_episode(0), [17])


def test_damage_makes_no_file_one_of_the_ffmpeg_program(tmp_path, caplog):
    path = Path(shutil.copy(reference_episode(4).videos[CAMERA].path, tmp_path / "copy.mp4"))
    position, size = packet_places(path)[100]
    overwrite(path, position, bytes(size))
    episode = episode_in(path, ramp(570).tolist(), 0.0)
    with closing(make_frame_provider(FEATURES, UNCACHED)) as provider:
        with pytest.raises(FrameDecodeError, match="decoding failed on the way"):
            provider.frames_by_index(episode, [100])
        assert shown_number(provider.frames_by_index(episode, [97])[0]) == 1608 + 97
        assert provider.counts.fallback_files == 0
    assert fallback_messages(caplog) == []


def test_a_frame_that_is_not_there_is_looked_for_once(tmp_path, program):
    program(f"touch {tmp_path}/was-run; exit 1")
    path = tmp_path / "short.mp4"
    write_video(path, range(20), ramp(20).tolist())
    with (
        closing(make_frame_provider(FEATURES, UNCACHED)) as provider,
        pytest.raises(FrameMissingError, match=r"nearest to 0\.800000 s"),
    ):
        provider.frames_by_index(episode_in(path, ramp(25).tolist(), 0.0), [24])
    assert not (tmp_path / "was-run").exists()
    subprocess.run(["ffmpeg"], check=False)
    assert (tmp_path / "was-run").exists(), "the program would have left a mark"


def test_a_closed_provider_asks_no_other_program(tmp_path, program):
    program(f"touch {tmp_path}/was-run; exit 1")
    provider = make_frame_provider(reference_features(), UNCACHED)
    provider.close()
    with pytest.raises(FrameDecodeError, match="closed"):
        provider.frames_by_index(reference_episode(0), [0])
    assert not (tmp_path / "was-run").exists()
    subprocess.run(["ffmpeg"], check=False)
    assert (tmp_path / "was-run").exists(), "the program would have left a mark"


def test_backend_ffmpeg_without_the_program_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"not in PATH; install it \(apt-get install ffmpeg\)"):
        make_decoder("ffmpeg")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        pytest.param(
            "raise ModuleNotFoundError(\"No module named 'torchcodec'\")",
            r"not installed; pip install 'annotationrun\[torchcodec\]'",
            id="not installed",
        ),
        pytest.param(
            "raise RuntimeError('Could not load libtorchcodec.')",
            "FFmpeg's shared libraries .*Could not load libtorchcodec",
            id="without FFmpeg's libraries",
        ),
    ],
)
def test_backend_torchcodec_without_the_package_says_how_to_get_it(monkeypatch, tmp_path, module, says):
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(module, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        closing(make_frame_provider(reference_features(), FrameSettings("torchcodec"))) as provider,
        pytest.raises(ConfigurationError, match=says),
    ):
        provider.frames_by_index(reference_episode(0), [0])


def test_a_program_that_fails_is_quoted_and_knows_no_secrets(monkeypatch, tmp_path, program):
    program(f"env > {tmp_path}/environment; echo out of luck >&2; exit 69")
    monkeypatch.setenv("HF_TOKEN", "secret")
    with (
        closing(make_frame_provider(reference_features(), FrameSettings("ffmpeg"))) as provider,
        pytest.raises(
            FrameDecodeError, match=r"episode 1, camera .*at 0\.100 s.*exit code 69; it wrote: out of luck"
        ),
    ):
        provider.frames_by_index(reference_episode(1), [3])
    environment = (tmp_path / "environment").read_text(encoding="utf-8")
    assert "PATH=" in environment
    assert "HF_TOKEN" not in environment


def test_a_program_that_hangs_is_killed(program):
    program("exec sleep 60")
    decoder = FfmpegDecoder(DecoderProcess(), timeout_seconds=0.5)
    provider = VideoFrameProvider(reference_features(), UNCACHED, decoder)
    started = time.monotonic()
    with pytest.raises(FrameDecodeError, match=r"gave no frames for 0\.5 s and was killed"):
        provider.frames_by_index(reference_episode(1), [3])
    assert time.monotonic() - started < 20
    provider.close()


def test_closing_kills_the_programs_that_run(tmp_path, program):
    program(f"echo $$ >> {tmp_path}/pids; exec sleep 60")
    decoder = FfmpegDecoder(DecoderProcess(), processes=2)
    provider = VideoFrameProvider(reference_features(), UNCACHED, decoder)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(provider.frames_by_index, reference_episode(i), [3]) for i in range(4)]
        pids = tmp_path / "pids"
        deadline = time.monotonic() + 20
        while not (pids.exists() and len(pids.read_text().split()) == 2) and time.monotonic() < deadline:
            time.sleep(0.02)
        provider.close()
        for call in waiting:
            with pytest.raises(FrameDecodeError, match="closed"):
                call.result()
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2, "more than two at once"
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_requests_for_two_files_are_served_side_by_side(monkeypatch):
    """Two children, and each has to be asked before either answer is taken."""
    both_asked = threading.Barrier(2, timeout=20)
    receive_frames = decoder_module.receive_frames
    served = []

    def receive(child, count):
        both_asked.wait()
        served.append(child.pid)
        return receive_frames(child, count)

    monkeypatch.setattr(decoder_module, "receive_frames", receive)
    with closing(DecoderProcess(children=2)) as decoder:
        provider = VideoFrameProvider(reference_features(), UNCACHED, decoder)
        with ThreadPoolExecutor(2) as pool:
            frames = pool.map(lambda i: provider.frames_by_index(reference_episode(i), [0])[0], (0, 4))
            assert [shown_number(frame) for frame in frames] == [0, 1608]
    assert len(set(served)) == 2
