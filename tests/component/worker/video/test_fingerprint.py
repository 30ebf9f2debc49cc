"""The fingerprint of an episode: the same wherever it lies, another if anything to be seen differs."""

import hashlib
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from tests.support.video_assets import (
    CAMERA,
    FEATURES,
    OPEN_GROUPS_WITH_B_FRAMES,
    copy_packets,
    episode_in,
    overwrite,
    packet_places,
    ramp,
    reference_episode,
    reference_features,
    write_video,
)

from annotationrun_worker.dataset.types import CameraKey, EpisodeIndex, VideoSpan
from annotationrun_worker.errors import DatasetError, FrameDecodeError
from annotationrun_worker.video.provider import FrameSettings, episode_fingerprint, make_frame_provider

FRONT, WRIST = CameraKey("observation.images.front"), CameraKey("observation.images.wrist")


@pytest.fixture
def provider():
    made = make_frame_provider(FEATURES, FrameSettings())
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference():
    made = make_frame_provider(reference_features(), FrameSettings())
    yield made
    made.close()


@pytest.mark.parametrize("index", range(6))
def test_the_packet_digest_is_what_its_description_says(reference, index):
    """Computed a second time, from a plain walk over the whole file."""
    episode = reference_episode(index)
    span = episode.videos[FRONT]
    with av.open(str(span.path)) as container:
        stream = container.streams.video[0]
        shown = [
            packet
            for packet in container.demux(stream)
            if packet.size
            and span.from_timestamp_seconds - 0.5 / 30
            <= float(packet.pts * packet.time_base)
            < span.to_timestamp_seconds - 0.5 / 30
        ]
        extradata = bytes(stream.codec_context.extradata)
    assert len(shown) == episode.frame_count
    hashed = struct.pack("<I", 3) + b"av1" + struct.pack("<I", len(extradata)) + extradata
    for packet in shown:
        microseconds = int(np.floor(float((packet.pts - shown[0].pts) * packet.time_base * 1_000_000) + 0.5))
        hashed += struct.pack("<qBQ", microseconds, packet.is_keyframe, packet.size) + bytes(packet)
    assert reference.packet_digest(episode, FRONT) == hashlib.sha256(hashed).hexdigest()


@pytest.mark.parametrize("packets", [20, 22])
def test_an_episode_whose_span_holds_another_number_of_frames_fails(tmp_path, provider, packets):
    path = tmp_path / "v.mp4"
    write_video(path, range(40), ramp(40).tolist())
    span = VideoSpan(path, 0.0, packets / 30)
    episode = replace(episode_in(path, ramp(21).tolist(), 0.0), videos={CAMERA: span})
    says = rf"v\.mp4': the video holds {packets} frames in the episode's span, but the episode has 21 rows"
    with pytest.raises(DatasetError, match=says):
        provider.packet_digest(episode, CAMERA)


def test_an_episode_has_the_same_digest_in_a_file_of_its_own(tmp_path, provider):
    shared = Path(shutil.copy(reference_episode(5).videos[FRONT].path, tmp_path / "shared.mp4"))
    own = tmp_path / "own" / "file.mp4"
    own.parent.mkdir()
    copy_packets(shared, own, start_seconds=19.0, shift_seconds=19.0)
    timestamps = ramp(1050).tolist()
    there = provider.packet_digest(episode_in(shared, timestamps, 19.0, 1), CAMERA)
    here = provider.packet_digest(episode_in(own, timestamps, 0.0, 2), CAMERA)
    assert there == here


@pytest.mark.parametrize("start", [0.0, 1.0, 24 / 30, 2.0 + 0.0071])
def test_reordered_packets_of_a_span_are_found_wherever_it_begins(tmp_path, provider, start):
    path = tmp_path / "open.mp4"
    write_video(path, range(120), (start + ramp(120)).tolist(), options=OPEN_GROUPS_WITH_B_FRAMES)
    for first in (0, 23, 24, 25, 26, 47, 71, 95):
        episode = episode_in(path, ramp(20).tolist(), start + first / 30, index=first)
        with av.open(str(path)) as container:
            low, high = start + (first - 0.5) / 30, start + (first + 19.5) / 30
            pts = [(p.pts * p.time_base, p) for p in container.demux(video=0) if p.size]
            sizes = [p.size for seconds, p in pts if low <= seconds < high]
        assert len(sizes) == 20
        assert provider.packet_digest(episode, CAMERA) == _digest_by_walk(path, low, high)


def _digest_by_walk(path: Path, low: float, high: float) -> str:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        shown = [p for p in container.demux(stream) if p.size and low <= float(p.pts * p.time_base) < high]
        extradata = bytes(stream.codec_context.extradata)
    digest = hashlib.sha256(struct.pack("<I", 4) + b"h264" + struct.pack("<I", len(extradata)) + extradata)
    for packet in shown:
        microseconds = int(np.floor(float((packet.pts - shown[0].pts) * packet.time_base * 1_000_000) + 0.5))
        digest.update(struct.pack("<qBQ", microseconds, packet.is_keyframe, packet.size) + bytes(packet))
    return digest.hexdigest()


def test_one_changed_byte_changes_the_digest_of_its_episode_alone(tmp_path):
    source = reference_episode(5).videos[FRONT].path
    changed = Path(shutil.copy(source, tmp_path / "changed.mp4"))
    position, size = packet_places(changed)[600]
    byte = changed.read_bytes()[position + size // 2]
    overwrite(changed, position + size // 2, bytes([byte ^ 1]))
    digests = {}
    for path in (source, changed):
        provider = make_frame_provider(FEATURES, FrameSettings())
        four, five = (
            episode_in(path, ramp(570).tolist(), 0.0, 4),
            episode_in(path, ramp(1050).tolist(), 19.0, 5),
        )
        digests[path] = [provider.packet_digest(four, CAMERA), provider.packet_digest(five, CAMERA)]
        provider.close()
    assert digests[source][0] == digests[changed][0]
    assert digests[source][1] != digests[changed][1]


def test_a_span_without_packets_is_an_error(provider):
    path = reference_episode(5).videos[FRONT].path
    with pytest.raises(FrameDecodeError, match=r"episode 3, camera .* holds no packet from 99\.98"):
        provider.packet_digest(episode_in(path, ramp(30).tolist(), 100.0, 3), CAMERA)


def _packets(episode, camera) -> str:
    return f"{camera}-packets"


def test_where_an_episode_lies_is_no_part_of_the_fingerprint():
    episode = reference_episode(2)
    moved = replace(
        episode, index=EpisodeIndex(9), data_path=Path("/elsewhere.parquet"), dataset_from_index=7, videos={}
    )
    assert episode_fingerprint(moved, [FRONT], _packets) == episode_fingerprint(episode, [FRONT], _packets)


def test_the_order_in_which_cameras_are_named_is_no_part_of_the_fingerprint():
    episode = reference_episode(2)
    assert episode_fingerprint(episode, [FRONT, WRIST], _packets) == episode_fingerprint(
        episode, [WRIST, FRONT], _packets
    )


def test_everything_to_be_seen_is_part_of_the_fingerprint():
    episode = reference_episode(2)
    moved = episode.timestamps_seconds.copy()
    moved[7] = np.nextafter(moved[7], np.float32(99), dtype=np.float32)
    fingerprints = [
        episode_fingerprint(episode, [FRONT], _packets),
        episode_fingerprint(episode, [], _packets),
        episode_fingerprint(episode, [WRIST], _packets),
        episode_fingerprint(episode, [FRONT, WRIST], _packets),
        episode_fingerprint(episode, [FRONT], lambda *_: "other packets"),
        episode_fingerprint(replace(episode, timestamps_seconds=moved), [FRONT], _packets),
        episode_fingerprint(replace(episode, timestamps_seconds=moved[:-1]), [FRONT], _packets),
        episode_fingerprint(replace(episode, task=episode.task + "."), [FRONT], _packets),
        episode_fingerprint(replace(episode, fps=25.0), [FRONT], _packets),
    ]
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_fingerprint_never_changes_from_version_to_version(reference):
    """Staged results are found by it: another value here would ask everything again."""
    fingerprint = episode_fingerprint(reference_episode(0), [FRONT], reference.packet_digest)
    assert fingerprint == "9f496ac64515f66931a68ee10eaa482de8e75a813131adf9684a92d21f32d94a"
