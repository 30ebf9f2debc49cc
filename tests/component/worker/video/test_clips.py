"""Clips that a model is shown: the frames they were asked to hold, each at its time, and nothing else."""

import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.support.image_dataset import FRONT, write_image_dataset
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
    write_pictures,
    write_video,
)

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey, Features
from annotationrun_worker.errors import DatasetError, FrameDecodeError, StorageError
from annotationrun_worker.video.clips import ClipStore, clip_of_frames
from annotationrun_worker.video.provider import FrameSettings, episode_fingerprint, make_frame_provider

WRIST = CameraKey("observation.images.wrist")


@pytest.fixture
def provider(tmp_path):
    made = make_frame_provider(reference_features(), FrameSettings(clip_folder=tmp_path / "clips"))
    yield made
    made.close()


def frames_of(path):
    """[(PTS in seconds, number shown)] of a clip, by a decoder of its own."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [(float(f.pts * stream.time_base), shown_number(_rgb(f))) for f in container.decode(stream)]


def _rgb(frame):
    return frame.to_ndarray(format="rgb24")


@pytest.mark.parametrize("index", [1, 3], ids=["the second of its file", "the first of the second file"])
def test_the_clip_of_an_episode_is_cut_at_its_frames(provider, index):
    episode = reference_episode(index)
    found = frames_of(provider.episode_clip_path(episode, WRIST))
    assert [number for _, number in found] == [
        episode.dataset_from_index + i for i in range(episode.frame_count)
    ]
    expected = episode.timestamps_seconds.astype(np.float64) - float(episode.timestamps_seconds[0])
    assert np.abs(np.array([pts for pts, _ in found]) - expected).max() <= 1 / 90_000


def test_a_clip_is_h264_yuv420p_without_sound_and_kept_under_its_fingerprint(provider, tmp_path):
    episode = reference_episode(1)
    path = provider.episode_clip_path(episode)
    fingerprint = episode_fingerprint(episode, [CAMERA], provider.packet_digest)
    assert path == tmp_path / "clips" / CAMERA / fingerprint / "ep_000001.mp4"
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.frames) == (320, 240, episode.frame_count)
        assert float(stream.duration * stream.time_base) == pytest.approx(7.5, abs=1e-3)
        assert float(stream.average_rate) == pytest.approx(30.0, abs=0.01)


def test_a_clip_of_chosen_frames_shows_them_at_the_given_rate(provider):
    episode = reference_episode(0)
    chosen = [0, 15, 30, 44, 61, 119]
    path = provider.frames_clip_path(episode, chosen, 2.0, WRIST)
    assert frames_of(path) == [(i / 2, number) for i, number in enumerate(chosen)]
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == Fraction(2)


def test_one_frame_makes_a_clip(provider):
    assert frames_of(provider.frames_clip_path(reference_episode(0), [7], 2.0)) == [(0.0, 7)]


def test_a_clip_is_made_once_and_the_same_frames_give_the_same_bytes(provider, tmp_path):
    episode = reference_episode(0)
    first = provider.frames_clip_path(episode, range(0, 120, 15), 2.0)
    written = first.stat().st_mtime_ns
    assert provider.frames_clip_path(episode, range(0, 120, 15), 2.0) == first
    assert first.stat().st_mtime_ns == written
    others = {
        provider.frames_clip_path(episode, range(0, 120, 15), 3.0),
        provider.frames_clip_path(episode, range(0, 105, 15), 2.0),
        provider.frames_clip_path(episode, range(0, 120, 15), 2.0, WRIST),
    }
    assert len(others | {first}) == 4
    elsewhere = make_frame_provider(reference_features(), FrameSettings(clip_folder=tmp_path / "elsewhere"))
    again = elsewhere.frames_clip_path(episode, range(0, 120, 15), 2.0)
    assert again.read_bytes() == first.read_bytes()
    elsewhere.close()


def test_sixteen_threads_get_the_clips_they_asked_for(provider):
    episode = reference_episode(2)
    starts = [10 * (number % 4) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        paths = list(
            pool.map(lambda start: provider.frames_clip_path(episode, [start, start + 5], 2.0), starts)
        )
    for start, path in zip(starts, paths, strict=True):
        assert [number for _, number in frames_of(path)] == [345 + start, 350 + start]


def test_cameras_in_the_rows_have_clips(tmp_path):
    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=(6, 5))
    info = read_info(root)
    episode = read_episode(root, info, list_episodes(root, info)[1], [FRONT])
    provider = make_frame_provider(read_features(info), FrameSettings())
    path = provider.episode_clip_path(episode)
    assert [number for _, number in frames_of(path)] == [6, 7, 8, 9, 10]
    provider.close()
    assert not path.exists(), "without a folder of its own a clip goes with the provider"


def test_an_odd_size_is_padded_to_an_even_one(tmp_path):
    path = tmp_path / "odd.mp4"
    pictures = [np.full((41, 63, 3), 90 + 20 * i, np.uint8) for i in range(4)]
    write_pictures(path, pictures, ramp(4).tolist(), pix_fmt="yuv444p")
    features = Features(fps=30.0, cameras=(CAMERA,), camera_sizes={CAMERA: (63, 41)})
    provider = make_frame_provider(features, FrameSettings(clip_folder=tmp_path))
    clip = provider.episode_clip_path(episode_in(path, ramp(4).tolist(), 0.0))
    provider.close()
    with av.open(str(clip)) as container:
        frames = [_rgb(frame) for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(42, 64, 3)] * 4
    for i, frame in enumerate(frames):
        assert abs(float(frame[5:35, 5:55].mean()) - (90 + 20 * i)) < 4
        assert frame[-1].mean() < frame[-3].mean() / 2


def test_a_frame_that_cannot_be_decoded_makes_no_clip(tmp_path):
    path, sound_path = tmp_path / "damaged.mp4", tmp_path / "sound.mp4"
    for written in (path, sound_path):
        write_video(written, range(20), ramp(20).tolist())
    position, size = packet_places(path)[0]
    overwrite(path, position + size // 4, bytes(size // 2))
    provider = make_frame_provider(FEATURES, FrameSettings(clip_folder=tmp_path / "clips"))
    with pytest.raises(FrameDecodeError, match="episode 3"):
        provider.episode_clip_path(episode_in(path, ramp(20).tolist(), 0.0, 3))
    assert [place for place in (tmp_path / "clips").rglob("*") if place.is_file()] == []
    sound = episode_in(sound_path, ramp(20).tolist(), 0.0, 4)
    assert len(frames_of(provider.episode_clip_path(sound))) == 20
    provider.close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "taken").write_text("a file", encoding="utf-8")
    provider = make_frame_provider(reference_features(), FrameSettings(clip_folder=tmp_path / "taken"))
    with pytest.raises(StorageError, match=r"clip of episode 0.*taken"):
        provider.episode_clip_path(reference_episode(0))
    provider.close()


def test_a_full_disk_is_an_error_of_the_storage_and_leaves_nothing(tmp_path):
    """The child may write no file of more than 2000 bytes."""
    store = ClipStore(tmp_path)
    clips = [replace(clip_of_frames(reference_episode(0), [0, 1], 1.0), name=f"{i}.mp4") for i in range(3)]
    noise = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(2)]
    store.path_of(clips[0], CAMERA, "f" * 64, lambda: iter(noise))
    (pid,) = store.child_pids
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    with pytest.raises(StorageError, match=r"clip of episode 0, camera .*1\.mp4.*encoding failed"):
        store.path_of(clips[1], CAMERA, "f" * 64, lambda: iter(noise))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    store.path_of(clips[2], CAMERA, "f" * 64, lambda: iter(noise))
    store.close()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0.mp4", "2.mp4"]


def test_a_picture_that_the_encoder_refuses_is_no_error_of_the_storage(tmp_path):
    store = ClipStore(tmp_path)
    clip = replace(clip_of_frames(reference_episode(0), [0], 1.0), name="wide.mp4")
    too_wide = np.zeros((2, 17_000, 3), np.uint8)  # H.264 has 16,384 at most
    with pytest.raises(FrameDecodeError, match=r"clip of episode 0, camera .*encoding failed"):
        store.path_of(clip, CAMERA, "f" * 64, lambda: iter([too_wide]))
    store.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["..", "."])
def test_a_camera_name_leads_nowhere_else(tmp_path, name):
    store = ClipStore(tmp_path / "clips")
    clip = clip_of_frames(reference_episode(0), [0], 1.0)
    with pytest.raises(DatasetError, match="no clips can be kept"):
        store.path_of(clip, CameraKey(name), "f" * 64, lambda: iter([]))
    frames = [np.zeros((4, 4, 3), np.uint8)]
    path = store.path_of(clip, CameraKey("a/../../b"), "f" * 64, lambda: iter(frames))
    assert path.is_relative_to(tmp_path / "clips")
    assert path.parent.parent.parent == tmp_path / "clips"
    store.close()


def test_a_clip_that_takes_too_long_is_given_up(tmp_path):
    store = ClipStore(tmp_path, timeout_seconds=0.0)
    clip = clip_of_frames(reference_episode(0), [0, 1], 1.0)
    frames = [np.zeros((4, 4, 3), np.uint8)] * 2
    with pytest.raises(FrameDecodeError, match="not made within 0 s"):
        store.path_of(clip, CAMERA, "f" * 64, lambda: iter(frames))
    store.close()


def test_an_encoder_that_stops_is_killed_and_replaced(tmp_path):
    store = ClipStore(tmp_path, timeout_seconds=8.0)  # another child has to be there in this time
    clips = [clip_of_frames(reference_episode(0), [0, number], 1.0) for number in (1, 2)]
    large = [np.zeros((1080, 1920, 3), np.uint8)] * 2
    store.path_of(replace(clips[0], name="warm.mp4"), CAMERA, "f" * 64, lambda: iter(large))
    (pid,) = store.child_pids
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(FrameDecodeError, match=r"no answer|not made within"):
        store.path_of(clips[0], CAMERA, "f" * 64, lambda: iter(large))
    path = store.path_of(clips[1], CAMERA, "f" * 64, lambda: iter(large))
    assert Path(path).stat().st_size > 0
    (replaced,) = store.child_pids
    assert replaced != pid
    store.close()


@pytest.mark.parametrize(("frames", "fps"), [([], 2.0), ([3, 3], 2.0), ([4, 3], 2.0), ([1], 0.0)])
def test_frames_that_make_no_clip_are_refused(frames, fps):
    with pytest.raises(ValueError, match="a clip"):
        clip_of_frames(reference_episode(0), frames, fps)
