"""The frame provider gives exactly the frames asked for: real videos, a number in each frame."""

import shutil

import numpy as np
import pytest
import torch
from tests.component.worker.video.frames_exact import count_wrong_by
from tests.support.torture_corpus import set_rotation
from tests.support.video_assets import (
    CAMERA,
    FEATURES,
    LONG_GROUPS_WITH_B_FRAMES,
    OPEN_GROUPS_WITH_B_FRAMES,
    REFERENCE,
    episode_in,
    ramp,
    reference_episode,
    reference_features,
    shown_number,
    write_video,
)

from annotationrun_worker.dataset.types import CameraKey, Features
from annotationrun_worker.errors import (
    ConfigurationError,
    FrameDecodeError,
    NoCamerasError,
    TimestampOutOfRangeError,
    UnknownCameraError,
)
from annotationrun_worker.video.provider import (
    FrameSettings,
    NullFrameProvider,
    VideoFrameProvider,
    make_frame_provider,
)

FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")
UNCACHED = FrameSettings(cache_bytes=0)


@pytest.fixture(scope="module")
def reference(decoder):
    return VideoFrameProvider(reference_features(), UNCACHED, decoder)


@pytest.fixture
def made(decoder):
    return VideoFrameProvider(FEATURES, UNCACHED, decoder)


def test_every_frame_of_the_reference_dataset_is_the_one_of_its_row():
    """The other backends and datasets: `make frames-exact`."""
    assert count_wrong_by("auto", REFERENCE) == (6456, 0)


def test_frames_come_in_the_order_asked_for(reference):
    episode = reference_episode(4)
    order = list(range(0, episode.frame_count, 7))
    np.random.default_rng(3).shuffle(order)
    frames = reference.frames_at(episode, [float(episode.timestamps_seconds[i]) for i in order], WRIST)
    assert [shown_number(frame) for frame in frames] == [episode.dataset_from_index + i for i in order]


@pytest.mark.parametrize("offset", [-0.4, 0.4], ids=["0.4 of a gap early", "0.4 of a gap late"])
def test_times_beside_a_frame_give_that_frame(reference, offset):
    episode = reference_episode(3)
    chosen = [0, 1, 302, 451, 902]
    times = [float(episode.timestamps_seconds[i]) + offset / 30 for i in chosen]
    frames = reference.frames_at(episode, times, FRONT)
    assert [shown_number(frame) for frame in frames] == [705 + i for i in chosen]


def test_sparse_frames_one_call_each_jumping_to_and_fro(reference):
    episode = reference_episode(5)
    chosen = [1049, 0, 700, 699, 701, 3, 1048]
    numbers = [shown_number(reference.frames_by_index(episode, [i])[0]) for i in chosen]
    assert numbers == [2178 + i for i in chosen]


def test_duplicates_decode_once():
    provider = make_frame_provider(reference_features(), UNCACHED)
    episode = reference_episode(0)
    frames = provider.frames_at(episode, [0.5, 0.1, 0.5, 0.5])
    provider.close()
    assert [shown_number(frame) for frame in frames] == [15, 3, 15, 15]
    assert (provider.counts.asked, provider.counts.decoded, provider.counts.from_cache) == (4, 2, 2)


def test_the_cache_serves_the_second_call_and_is_not_changed_by_its_callers():
    provider = make_frame_provider(reference_features(), FrameSettings())
    episode = reference_episode(0)
    first = provider.frames_by_index(episode, [1, 2], FRONT)
    first.zero_()
    second = provider.frames_by_index(episode, [2, 1], FRONT)
    other = provider.frames_by_index(episode, [1], WRIST)
    provider.close()
    assert [shown_number(frame) for frame in second] == [2, 1]
    assert not torch.equal(second[1], other[0])
    assert (provider.counts.decoded, provider.counts.from_cache) == (3, 2)


def test_frames_are_rgb_uint8_channels_first(reference):
    frames = reference.frames_at(reference_episode(1), [0.0, 0.1])
    assert (frames.dtype, tuple(frames.shape), frames.device.type) == (torch.uint8, (2, 3, 240, 320), "cpu")
    assert frames.is_contiguous()


def test_nothing_asked_gives_no_frame_of_the_right_shape(reference):
    assert tuple(reference.frames_at(reference_episode(1), []).shape) == (0, 3, 240, 320)


def test_the_default_camera_is_the_first_and_can_be_named():
    first = make_frame_provider(reference_features(), UNCACHED)
    named = make_frame_provider(reference_features(), FrameSettings(default_camera=WRIST))
    episode = reference_episode(0)
    assert (first.default_camera, named.default_camera) == (FRONT, WRIST)
    wrist = first.frames_by_index(episode, [0], WRIST)
    assert torch.equal(named.frames_by_index(episode, [0]), wrist)
    assert not torch.equal(first.frames_by_index(episode, [0]), wrist)
    first.close()
    named.close()


def test_a_video_of_an_episode_spreads_over_it(reference):
    episode = reference_episode(0)
    frames = reference.video_for_episode(episode, 4)
    assert [shown_number(frame) for frame in frames] == [0, 40, 79, 119]
    assert len(reference.video_for_episode(episode, 500)) == 120


def test_past_the_end_is_an_error_that_names_the_episode(reference):
    with pytest.raises(TimestampOutOfRangeError, match=r"episode 1: no frame at 7\.5"):
        reference.frames_at(reference_episode(1), [7.4, 7.5])
    with pytest.raises(IndexError, match="episode 1 has no frame 225, its frames are 0 to 224"):
        reference.frames_by_index(reference_episode(1), [225])


def test_an_unknown_camera_is_an_error_that_lists_the_known(reference):
    with pytest.raises(UnknownCameraError, match=r"no camera 'top'.*images\.front.*images\.wrist"):
        reference.frames_at(reference_episode(0), [0.0], CameraKey("top"))
    with pytest.raises(
        UnknownCameraError, match=r"is 'top', but the dataset's cameras are.*images\.front.*wrist"
    ):
        make_frame_provider(reference_features(), FrameSettings(default_camera=CameraKey("top")))


def test_an_unknown_backend_is_an_error_that_lists_the_known():
    with pytest.raises(ConfigurationError, match=r"'nvdec'.*\['auto', 'ffmpeg', 'pyav', 'torchcodec'\]"):
        make_frame_provider(reference_features(), FrameSettings(backend="nvdec"))


def test_without_cameras_whoever_wants_to_see_gets_an_error():
    blind = Features(fps=30.0, cameras=(), camera_sizes={})
    provider = make_frame_provider(blind, UNCACHED)
    assert isinstance(provider, NullFrameProvider)
    assert provider.camera_keys == ()
    with pytest.raises(NoCamerasError, match="episode 2 were asked for"):
        provider.frames_at(reference_episode(2), [0.0])
    with pytest.raises(NoCamerasError):
        provider.default_camera  # noqa: B018  (reading it is the test)
    with pytest.raises(UnknownCameraError, match="has no camera"):
        make_frame_provider(blind, FrameSettings(default_camera=CAMERA))


CODECS = [
    pytest.param("libx264", "yuv420p", LONG_GROUPS_WITH_B_FRAMES, id="H.264, B-frames, groups of 250"),
    pytest.param("libx264", "yuv420p", OPEN_GROUPS_WITH_B_FRAMES, id="H.264, B-frames, open groups of 24"),
    pytest.param(
        "libx265", "yuv420p10le", {"preset": "ultrafast", "x265-params": "log-level=0"}, id="H.265, 10 bit"
    ),
    pytest.param("libx264", "gray", LONG_GROUPS_WITH_B_FRAMES, id="H.264, grey"),
]


@pytest.mark.parametrize(("codec", "pix_fmt", "options"), CODECS)
def test_two_episodes_in_one_file_the_second_off_the_frame_grid(tmp_path, made, codec, pix_fmt, options):
    path = tmp_path / "two.mp4"
    first, second = ramp(100), ramp(90)
    start = 100 / 30 + 0.0071
    pts = [*first.tolist(), *(start + second.astype(np.float64)).tolist()]
    write_video(path, range(190), pts, codec, pix_fmt, options)
    episodes = [episode_in(path, first.tolist(), 0.0, 0), episode_in(path, second.tolist(), start, 1)]
    for episode, offset in zip(episodes, (0, 100), strict=True):
        count = episode.frame_count
        everything = made.frames_by_index(episode, range(count))
        assert [shown_number(frame) for frame in everything] == [offset + i for i in range(count)]
        for i in (count - 1, 0, count // 2, count // 2 - 1, 23, 24, 25):
            assert shown_number(made.frames_by_index(episode, [i])[0]) == offset + i


def test_grey_becomes_three_equal_channels(tmp_path, made):
    path = tmp_path / "grey.mp4"
    write_video(path, range(3), ramp(3).tolist(), pix_fmt="gray")
    frame = made.frames_by_index(episode_in(path, ramp(3).tolist(), 0.0), [2])[0]
    assert torch.equal(frame[0], frame[1])
    assert torch.equal(frame[1], frame[2])


def test_uneven_timestamps_are_found_by_pts_not_by_counting(tmp_path, made):
    path = tmp_path / "uneven.mp4"
    timestamps = np.cumsum([0.0, 0.033, 0.05, 0.033, 0.4, 0.02, 0.033, 0.1]).tolist()
    write_video(path, range(8), timestamps)
    frames = made.frames_at(episode_in(path, timestamps, 0.0), timestamps[::-1])
    assert [shown_number(frame) for frame in frames] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_frame_that_the_video_lacks_is_an_error_not_its_neighbour(tmp_path, made):
    path = tmp_path / "hole.mp4"
    kept = [i for i in range(30) if i != 17]
    write_video(path, kept, [i / 30 for i in kept])
    episode = episode_in(path, ramp(30).tolist(), 0.0, index=9)
    with pytest.raises(FrameDecodeError, match=r"episode 9, camera .*hole\.mp4.*0\.566667 s of the file"):
        made.frames_by_index(episode, [16, 17])
    assert shown_number(made.frames_by_index(episode, [18])[0]) == 18


def test_a_video_that_is_shifted_by_half_a_frame_is_an_error(tmp_path, made):
    path = tmp_path / "shifted.mp4"
    write_video(path, range(20), [(i + 0.5) / 30 for i in range(20)])
    with pytest.raises(FrameDecodeError, match=r"off is taken|no frame within"):
        made.frames_by_index(episode_in(path, ramp(20).tolist(), 0.0), [4])


def test_pictures_are_not_rotated_as_lerobot_does_not(tmp_path, made):
    upright, turned = tmp_path / "upright.mp4", tmp_path / "turned.mp4"
    write_video(upright, range(3), ramp(3).tolist())
    shutil.copy(upright, turned)
    set_rotation(turned)
    frames = [
        made.frames_by_index(episode_in(path, ramp(3).tolist(), 0.0, i), [1])
        for i, path in enumerate((upright, turned))
    ]
    assert torch.equal(frames[0], frames[1])


def test_a_size_other_than_the_metadata_says_is_an_error(tmp_path, decoder):
    path = tmp_path / "small.mp4"
    write_video(path, range(3), ramp(3).tolist())
    features = Features(fps=30.0, cameras=(CAMERA,), camera_sizes={CAMERA: (640, 480)})
    provider = VideoFrameProvider(features, UNCACHED, decoder)
    with pytest.raises(FrameDecodeError, match=r"320 x 240 pixels, but meta/info\.json says 640 x 480"):
        provider.frames_by_index(episode_in(path, ramp(3).tolist(), 0.0), [0])
