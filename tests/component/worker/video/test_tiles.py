"""Tiles of frames, as contact sheets hold them: the same from every backend, and on every way to them."""

from contextlib import closing
from dataclasses import replace

import av
import numpy as np
import pytest
from tests.support.image_dataset import FRONT, write_image_dataset
from tests.support.video_assets import (
    CAMERA,
    FEATURES,
    TICKS_PER_SECOND,
    episode_in,
    ramp,
    reference_episode,
    reference_features,
    write_pictures,
)

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey
from annotationrun_worker.demo import frame_code
from annotationrun_worker.errors import FrameDecodeError
from annotationrun_worker.video.provider import FrameSettings, VideoFrameProvider, make_frame_provider
from annotationrun_worker.video.tiles import tiles_of

WIDTH = 224
CHOSEN = [0, 1, 44, 60, 118]
UNCACHED = FrameSettings(cache_bytes=0)
ALIKE_LEVELS = 3
"""Mean difference of two tiles of one frame at most."""


@pytest.fixture
def open_provider():
    """Providers of the reference dataset that are closed when the test ends."""
    made = []

    def make(features=None, **settings):
        made.append(make_frame_provider(features or reference_features(), FrameSettings(**settings)))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def test_every_backend_gives_the_tiles_of_the_frames_it_gives(decoder):
    provider, episode = VideoFrameProvider(reference_features(), UNCACHED, decoder), reference_episode(0)
    tiles = provider.tiles_by_index(episode, CHOSEN, WIDTH)
    assert (tiles.dtype, tiles.shape) == (np.uint8, (len(CHOSEN), 168, WIDTH, 3))
    assert np.array_equal(tiles, tiles_of(provider.pictures_by_index(episode, CHOSEN), WIDTH))


def test_tiles_of_all_backends_are_alike_where_their_frames_are_not_the_same(
    tmp_path, decoder, open_provider
):
    path = tmp_path / "sharp.mp4"
    noise = np.random.default_rng(5).integers(0, 256, (10, 30, 40, 3), np.uint8)
    pictures = noise.repeat(8, axis=1).repeat(8, axis=2)
    options = {"preset": "ultrafast", "x265-params": "log-level=0"}
    write_pictures(path, pictures, ramp(10).tolist(), "libx265", "yuv420p10le", options)
    episode = episode_in(path, ramp(10).tolist(), 0.0)
    expected = open_provider(FEATURES, backend="pyav").tiles_by_index(episode, [2, 7], WIDTH)
    found = VideoFrameProvider(FEATURES, UNCACHED, decoder).tiles_by_index(episode, [2, 7], WIDTH)
    assert np.abs(found.astype(np.int16) - expected).mean() < ALIKE_LEVELS
    assert np.abs(found.astype(np.int16) - expected[::-1]).mean() > 10 * ALIKE_LEVELS


def test_a_wide_tile_still_shows_which_frame_it_is(open_provider):
    tiles = open_provider().tiles_by_index(reference_episode(0), CHOSEN, 480)
    assert tiles.shape[1:] == (360, 480, 3)
    halved = tiles_of(tiles, 320)
    assert [frame_code.read(tile)["index"] for tile in halved] == CHOSEN


def test_tiles_come_in_the_order_asked_for_and_each_is_decoded_once(open_provider):
    provider, episode = open_provider(), reference_episode(0)
    once = provider.tiles_by_index(episode, [3, 9, 27], WIDTH)
    again = provider.tiles_by_index(episode, [27, 3, 9, 3, 81], WIDTH)
    assert np.array_equal(again[:4], once[[2, 0, 1, 0]])
    assert (provider.counts.decoded, provider.counts.from_cache) == (4, 4)


def test_frames_and_tiles_of_two_widths_do_not_get_into_each_others_way(open_provider):
    provider, episode = open_provider(), reference_episode(0)
    for _ in range(2):
        frames = provider.pictures_by_index(episode, CHOSEN)
        for width in (WIDTH, 64):
            assert np.array_equal(provider.tiles_by_index(episode, CHOSEN, width), tiles_of(frames, width))
    assert provider.counts.decoded == provider.counts.from_cache == 3 * len(CHOSEN)


def test_what_a_caller_was_given_is_its_own(open_provider):
    provider, episode = open_provider(), reference_episode(0)
    for ask in (
        lambda: provider.pictures_by_index(episode, CHOSEN),
        lambda: provider.tiles_by_index(episode, CHOSEN, WIDTH),
    ):
        first = ask()
        kept = first.copy()
        first[:] = 0
        for _ in range(2):
            again = ask()
            assert np.array_equal(again, kept)
            again[:] = 0


def test_a_request_of_many_batches_is_whole(monkeypatch, open_provider):
    monkeypatch.setattr("annotationrun_worker.video.provider.BATCH_BYTES", 7 * 320 * 240 * 3)
    provider, episode = open_provider(), reference_episode(0)
    frames = provider.pictures_by_index(episode, range(20))
    assert [frame_code.read(frame)["index"] for frame in frames] == list(range(20))
    assert np.array_equal(provider.tiles_by_index(episode, range(20), WIDTH), tiles_of(frames, WIDTH))


def test_where_whole_frames_are_looked_at_tiles_are_made_of_these(open_provider):
    episode, wrist = reference_episode(0), reference_features().cameras[1]
    provider = open_provider(whole_cameras=frozenset({CAMERA}))
    tiles = provider.tiles_by_index(episode, CHOSEN, WIDTH)
    provider.pictures_by_index(episode, CHOSEN)
    assert (provider.counts.decoded, provider.counts.from_cache) == (len(CHOSEN), len(CHOSEN))
    assert np.array_equal(tiles, open_provider().tiles_by_index(episode, CHOSEN, WIDTH))
    provider.tiles_by_index(episode, CHOSEN, WIDTH, wrist)
    provider.pictures_by_index(episode, CHOSEN, wrist)
    assert provider.counts.decoded == 3 * len(CHOSEN)


def test_tiles_of_frames_of_another_size_than_the_metadata_say_are_refused(decoder):
    cameras = reference_features().cameras
    features = replace(reference_features(), camera_sizes=dict.fromkeys(cameras, (640, 480)))
    provider = VideoFrameProvider(features, UNCACHED, decoder)
    with pytest.raises(FrameDecodeError, match=r"320 x 240 pixels, but meta/info\.json says 640 x 480"):
        provider.tiles_by_index(reference_episode(0), CHOSEN, WIDTH)
    assert provider.counts.failed == len(CHOSEN)


@pytest.mark.parametrize("cached", [False, True], ids=["not cached", "cached"])
def test_tiles_of_pictures_in_rows_are_those_of_their_frames(tmp_path, open_provider, cached):
    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=(9, 4))
    info = read_info(root)
    features = read_features(info)
    episode = read_episode(root, info, list_episodes(root, info)[1], (CameraKey(FRONT),))
    provider = open_provider(features, cache_bytes=2**20 if cached else 0)
    frames = provider.pictures_by_index(episode, [3, 0])
    assert np.array_equal(provider.tiles_by_index(episode, [3, 0], WIDTH), tiles_of(frames, WIDTH))
    said = replace(features, camera_sizes={CameraKey(FRONT): (100, 240)})
    wrong = open_provider(said)
    with pytest.raises(FrameDecodeError, match=r"320 x 240 pixels, but meta/info\.json says 100 x 240"):
        wrong.tiles_by_index(episode, [1], WIDTH)
    right = provider.tiles_by_index(episode, [1], WIDTH)
    assert right.shape == (1, 168, WIDTH, 3)


def test_where_the_size_changes_tiles_of_the_right_size_are_given_and_others_refused(tmp_path):
    """The file's index tells the first size: the decoder finds out that it is another later on."""
    parts = tmp_path / "narrow.mp4", tmp_path / "wide.mp4"
    for part, width in zip(parts, (160, 320), strict=True):
        picture = np.full((240, width, 3), 99, np.uint8)
        write_pictures(part, [picture] * 5, ramp(5).tolist(), "libvpx-vp9", options={"g": "1"})
    path = tmp_path / "both.mp4"
    with av.open(str(path), "w") as writer, av.open(str(parts[0])) as narrow, av.open(str(parts[1])) as wide:
        stream = writer.add_stream_from_template(narrow.streams.video[0], opaque=True)
        for number, packet in enumerate([*narrow.demux(video=0), *wide.demux(video=0)]):
            if packet.size:
                packet.pts = packet.dts = number * TICKS_PER_SECOND // 30
                packet.stream = stream
                writer.mux(packet)
    episode = episode_in(path, ramp(11).tolist(), 0.0)
    with closing(make_frame_provider(FEATURES, UNCACHED)) as provider:
        for _ in range(2):
            assert provider.tiles_by_index(episode, [7, 9], WIDTH).shape == (2, 168, WIDTH, 3)
        with pytest.raises(FrameDecodeError, match=r"160 x 240 pixels, but meta/info\.json says 320 x 240"):
            provider.tiles_by_index(episode, [1], WIDTH)
        with pytest.raises(FrameDecodeError, match=r"160 x 240 pixels, but meta/info\.json says 320 x 240"):
            provider.tiles_by_index(episode, [1, 7], WIDTH)
