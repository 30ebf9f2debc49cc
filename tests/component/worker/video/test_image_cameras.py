"""Cameras stored as pictures in the rows (W23 of the upstream): read, decoded, told apart, merged through."""

from contextlib import closing
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.component.worker.video.frames_exact import count_wrong_frames
from tests.support.image_dataset import FRONT, WRIST, encoded, png, png_in_row, write_image_dataset

from annotationrun_worker.dataset.episodes import list_episodes, read_episode
from annotationrun_worker.dataset.metadata import read_features, read_info
from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex
from annotationrun_worker.demo import frame_code
from annotationrun_worker.errors import DatasetError, FrameDecodeError
from annotationrun_worker.language.columns import EpisodeLanguage
from annotationrun_worker.language.rewrite import rewrite_data_file
from annotationrun_worker.video.image_decoder import EpisodeImages, ImageDecoder
from annotationrun_worker.video.provider import FrameSettings, episode_fingerprint, make_frame_provider

SHORT = (5, 4)
DATA_FILE = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two image cameras, all episodes in one row group."""
    root = tmp_path_factory.mktemp("images") / "dataset"
    return write_image_dataset(root, {FRONT: "image", WRIST: "image"}, one_row_group=True)


@pytest.fixture
def open_provider():
    """Providers that are closed when the test ends."""
    made = []

    def make(root, **settings):
        made.append(make_frame_provider(read_features(read_info(root)), FrameSettings(**settings)))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def episode_of(root, index, cameras=(FRONT,)):
    info = read_info(root)
    return read_episode(root, info, list_episodes(root, info)[index], cameras)


@pytest.mark.parametrize(
    ("cameras", "one_row_group"),
    [
        pytest.param({FRONT: "image", WRIST: "image"}, True, id="both in the rows, one row group"),
        pytest.param({FRONT: "image", WRIST: "video"}, False, id="the first in the rows"),
        pytest.param({FRONT: "video", WRIST: "image"}, False, id="the second in the rows"),
    ],
)
def test_every_frame_is_the_one_of_its_row(tmp_path, open_provider, cameras, one_row_group):
    root = write_image_dataset(tmp_path / "x", cameras, lengths=(20, 9, 1), one_row_group=one_row_group)
    provider = open_provider(root, cache_bytes=0)
    assert provider.camera_keys == (FRONT, WRIST)
    assert provider.default_camera == FRONT
    assert count_wrong_frames(root, provider) == (60, 0)


def test_rows_come_in_any_order_and_to_and_fro(both, open_provider):
    provider = open_provider(both, cache_bytes=0)
    episode = episode_of(both, 1, (FRONT, WRIST))
    for chosen in ([59, 0, 30, 30], [31], [2, 1], [58, 59]):
        for number, camera in enumerate((FRONT, WRIST)):
            frames = provider.frames_by_index(episode, chosen, camera)
            codes = [frame_code.read(frame.numpy()) for frame in frames]
            assert codes == [{"index": 40 + i, "camera": number, "episode": 1} for i in chosen]


def test_one_frame_of_a_large_row_group_is_read_in_little_memory(both, tmp_path):
    """128 MiB of pictures in one row group, but not in one page: any reader has to load a page whole."""
    picture = png(7, 0, 0)
    noise = np.random.default_rng(5)

    def padded_png(index, camera, episode):
        return {"bytes": picture + noise.bytes(2 * 1024 * 1024), "path": None}

    large = write_image_dataset(
        tmp_path / "x", {FRONT: "image"}, lengths=(64,), one_row_group=True, picture_of=padded_png
    )
    table = pq.read_table(large / DATA_FILE)
    pq.write_table(table, large / DATA_FILE, use_dictionary=False, write_batch_size=1)
    assert (large / DATA_FILE).stat().st_size > 128 * 1024 * 1024
    with closing(ImageDecoder()) as decoder:
        peaks = []
        for root, last in ((both, 39), (large, 63)):
            images = EpisodeImages(EpisodeIndex(0), CameraKey(FRONT), episode_of(root, 0).images[FRONT])
            decoder.frames(images, [2, last], "at the ends")
            decoder.digest(images)
            peaks.append(_peak_kib(decoder))
    assert peaks[1] < peaks[0] + 64 * 1024


def _peak_kib(decoder):
    """Peak resident memory of the decoder's child."""
    status = Path(f"/proc/{decoder.child_pids[0]}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        pytest.param("L", "PNG", id="grey"),
        pytest.param("RGBA", "PNG", id="with transparency"),
        pytest.param("P", "PNG", id="a palette"),
        pytest.param("RGB", "JPEG", id="JPEG"),
    ],
)
def test_pictures_of_other_kinds_become_rgb(tmp_path, open_provider, mode, file_format):
    def in_mode(index, camera, episode):
        picture = PIL.Image.fromarray(frame_code.render(index, camera, episode)).convert(mode)
        return {"bytes": encoded(picture, file_format), "path": None}

    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=(2,), picture_of=in_mode)
    frame = open_provider(root).frames_by_index(episode_of(root, 0), [1])[0]
    assert (frame.dtype, tuple(frame.shape)) == (torch.uint8, (3, 240, 320))
    assert frame_code.read(frame.numpy())["index"] == 1
    assert torch.equal(frame[0], frame[1]) == (mode == "L")


def test_a_row_with_a_path_only_is_read_from_the_datasets_folder(tmp_path, open_provider):
    def by_path(index, camera, episode):
        return {"bytes": None, "path": f"images/{FRONT}/frame-{index:06d}.png"}

    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=SHORT, picture_of=by_path)
    folder = root / "images" / FRONT
    folder.mkdir(parents=True)
    for index in range(8):
        (folder / f"frame-{index:06d}.png").write_bytes(png(index, 0, index // 5))
    provider = open_provider(root)
    frames = provider.frames_by_index(episode_of(root, 1), [0, 2])
    assert [frame_code.read(frame.numpy())["index"] for frame in frames] == [5, 7]
    with pytest.raises(FrameDecodeError, match=r"row 8 .*frame-000008\.png.*can't be read: No such file"):
        provider.frames_by_index(episode_of(root, 1), [3])


def _sixteen_bit():
    return encoded(PIL.Image.fromarray(np.full((240, 320), 40000, np.uint16)), "PNG")


BROKEN_ROWS = [
    pytest.param({"bytes": None, "path": None}, "neither the bytes of a picture nor a path", id="nothing"),
    pytest.param(None, "neither the bytes of a picture nor a path", id="null"),
    pytest.param({"bytes": b"", "path": None}, r"not a picture .*0 bytes", id="no bytes"),
    pytest.param({"bytes": b"no picture" * 50, "path": None}, "not a picture that can be", id="no picture"),
    pytest.param({"bytes": png(2, 0, 0)[:9000], "path": None}, "truncated", id="cut off"),
    pytest.param({"bytes": None, "path": "../../etc/passwd"}, "outside of the dataset's", id="leads out"),
    pytest.param({"bytes": None, "path": "/etc/passwd"}, "outside of the dataset's", id="absolute path"),
    pytest.param({"bytes": _sixteen_bit(), "path": None}, "mode 'I;16', expected 8 bits", id="16 bits"),
    pytest.param(
        {"bytes": encoded(PIL.Image.new("RGB", (640, 480)), "PNG"), "path": None},
        r"640 x 480.*320 x 240",
        id="another size",
    ),
    pytest.param(
        {"bytes": encoded(PIL.Image.new("RGB", (320, 240)), "GIF"), "path": None},
        "expected PNG or JPEG",
        id="a GIF",
    ),
]


@pytest.mark.parametrize(("held", "says"), BROKEN_ROWS)
def test_a_broken_row_fails_its_frame_and_no_other(tmp_path, open_provider, held, says):
    def broken(index, camera, episode):
        return held if index == 2 else png_in_row(index, camera, episode)

    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=SHORT, picture_of=broken)
    provider, episode = open_provider(root), episode_of(root, 0)
    with pytest.raises(FrameDecodeError, match=rf"episode 0, camera '{FRONT}'.*{says}"):
        provider.frames_by_index(episode, [2])
    with pytest.raises(FrameDecodeError):
        provider.frames_by_index(episode, range(5))
    frames = provider.frames_by_index(episode, [1, 3, 4])
    assert [frame_code.read(frame.numpy())["index"] for frame in frames] == [1, 3, 4]
    assert provider.counts.failed == 6


@pytest.mark.parametrize(
    ("column", "says"),
    [
        pytest.param(None, "no column 'observation.images.front'", id="missing"),
        pytest.param(pa.array(["a.png"] * 9), "is of type string, expected struct", id="of texts"),
    ],
)
def test_a_column_that_holds_no_pictures_is_named(tmp_path, column, says):
    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=SHORT)
    table = pq.read_table(root / DATA_FILE)
    place = table.schema.get_field_index(FRONT)
    changed = table.remove_column(place) if column is None else table.set_column(place, FRONT, column)
    pq.write_table(changed, root / DATA_FILE)
    with pytest.raises(DatasetError, match=says):
        episode_of(root, 0)
    assert episode_of(root, 0, cameras=()).images == {}


def test_a_file_that_goes_away_is_an_error_that_names_it(tmp_path, open_provider):
    root = write_image_dataset(tmp_path / "x", {FRONT: "image"}, lengths=SHORT)
    provider, episode = open_provider(root), episode_of(root, 0)
    (root / DATA_FILE).unlink()
    with pytest.raises(FrameDecodeError, match=r"at 0\.067 s, file .*file-000\.parquet' is missing"):
        provider.frames_by_index(episode, [1])


def test_the_fingerprint_is_of_the_pictures_as_stored_not_of_where_they_lie(tmp_path, open_provider):
    cameras = {FRONT: "image", WRIST: "image"}
    there = write_image_dataset(tmp_path / "there", cameras, lengths=(5, 4))
    moved = write_image_dataset(tmp_path / "moved", cameras, lengths=(5, 4), one_row_group=True)
    changed = write_image_dataset(
        tmp_path / "changed",
        cameras,
        lengths=(5, 4),
        picture_of=lambda index, camera, episode: png_in_row(index + (index == 7), camera, episode),
    )
    found = {}
    for root in (there, moved, changed):
        provider = open_provider(root)
        episodes = [episode_of(root, index) for index in (0, 1)]
        found[root] = [episode_fingerprint(e, [FRONT], provider.packet_digest) for e in episodes]
    assert found[there] == found[moved]
    assert found[there][0] == found[changed][0]
    assert found[there][1] != found[changed][1]


def test_merging_passes_the_pictures_through_byte_for_byte(both, tmp_path):
    source, target = both / DATA_FILE, tmp_path / "merged.parquet"
    rewritten = rewrite_data_file(source, target, lambda _: EpisodeLanguage((), {}))
    assert rewritten.episodes == (0, 1, 2)
    before, after = pq.read_table(source), pq.read_table(target)
    for camera in (FRONT, WRIST):
        assert after.schema.field(camera) == before.schema.field(camera)
        assert after.column(camera).to_pylist() == before.column(camera).to_pylist()
    assert pq.ParquetFile(target).num_row_groups == 3


def test_a_picture_is_decoded_outside_of_the_workers_process(both, open_provider, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("decoded here")

    monkeypatch.setattr(PIL.Image, "open", refuse)
    frame = open_provider(both).frames_by_index(episode_of(both, 0), [3])[0]
    assert frame_code.read(frame.numpy())["index"] == 3
