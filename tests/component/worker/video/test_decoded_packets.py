"""How many packets are decoded for the frames wanted, and that leaving others out changes no picture."""

import itertools
import random

import numpy as np
import pytest
from tests.support.video_assets import (
    LONG_GROUPS_WITH_B_FRAMES,
    OPEN_GROUPS_WITH_B_FRAMES,
    TICKS_PER_SECOND,
    overwrite,
    packet_places,
    ramp,
    shown_number,
    write_video,
)

from annotationrun_worker.video import packets as packet_reader
from annotationrun_worker.video import video_file
from annotationrun_worker.video.child_server import RefusedError
from annotationrun_worker.video.decode_plan import plan_groups
from annotationrun_worker.video.packets import PacketReader
from annotationrun_worker.video.video_file import VideoFile

FRAMES = 120
TOLERANCE_SECONDS = 0.01
HELD_BACK = 4
"""More than x264's default reordering keeps in the decoder."""
LENGTH_BYTES = 4
"""Of the length before each NAL unit, as FFmpeg writes it."""
START_OF_P_SLICE = 0b1001101
"""first_mb_in_slice 0, slice_type 5, pic_parameter_set_id 0 (ITU-T H.264, 7.3.3)."""
KINDS = {
    "AV1, a keyframe every 2 frames": ("libsvtav1", {"preset": "12", "g": "2", "crf": "30"}),
    "AV1, one group": ("libsvtav1", {"preset": "8", "g": "240", "crf": "15"}),
    "H.264, B-frames that others refer to": (
        "libx264",
        {"preset": "veryfast", "g": "48", "x264-params": "bframes=5:b-pyramid=normal:scenecut=0"},
    ),
    "H.264, long groups": ("libx264", LONG_GROUPS_WITH_B_FRAMES),
    "H.264, open groups": ("libx264", OPEN_GROUPS_WITH_B_FRAMES),
    "HEVC": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=0:keyint=30:bframes=4"}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def video(request, tmp_path_factory):
    """Path of a video of each kind."""
    codec, options = KINDS[request.param]
    path = tmp_path_factory.mktemp("video") / "made.mp4"
    write_video(path, range(FRAMES), ramp(FRAMES).tolist(), codec, options=options)
    return path


@pytest.fixture
def fed(monkeypatch):
    """The packets that are given to decoders."""
    given = []
    next_packet = PacketReader.next_packet

    def note(reader):
        packet = next_packet(reader)
        given.extend([] if packet is None else [packet.pts])
        return packet

    monkeypatch.setattr(PacketReader, "next_packet", note)
    return given


def shown(file, wanted):
    times = [number / 30 for number in wanted]
    pictures = file.pictures_at(times, [TOLERANCE_SECONDS] * len(times))
    return [shown_number(picture.rgb.transpose(2, 0, 1)) for picture in pictures]


@pytest.mark.parametrize("step", [1, 2, 7, 15, 30, 119])
def test_no_packet_is_decoded_that_the_plan_does_not_hold(video, fed, step):
    wanted = list(range(0, FRAMES, step))
    with VideoFile(str(video)) as file:
        groups = plan_groups(file.index(), np.array(wanted) / 30)
        assert shown(file, wanted) == wanted
    assert len(set(fed)) == len(fed), "a packet was decoded twice"
    least = sum(group.frames for group in groups)
    # A decoder that reorders gives a frame after some more packets; open groups begin with some of the last.
    assert len(wanted) <= len(fed) <= least + HELD_BACK * len(groups)


def test_a_keyframe_costs_one_packet(tmp_path, fed):
    path = tmp_path / "made.mp4"
    codec, options = KINDS["AV1, a keyframe every 2 frames"]
    write_video(path, range(FRAMES), ramp(FRAMES).tolist(), codec, options=options)
    with VideoFile(str(path)) as file:
        assert shown(file, range(0, FRAMES, 30)) == list(range(0, FRAMES, 30))
        assert len(fed) == 4
        # Times a little before the frames, as float32 makes them, cost no more.
        pictures = file.pictures_at([number / 30 - 1e-4 for number in range(0, FRAMES, 30)], [0.01] * 4)
        assert len(list(pictures)) == 4
        assert len(fed) == 8


def test_drawn_requests_one_after_another_on_an_open_file_get_their_frames(video):
    draw = random.Random(str(video.parent.name))
    with VideoFile(str(video)) as file:
        for _ in range(60):
            wanted = sorted(draw.sample(range(FRAMES), draw.choice([1, 1, 2, 3, 8])))
            assert shown(file, wanted) == wanted


def test_batches_that_follow_each_other_go_on_where_the_last_ended(video, fed):
    with VideoFile(str(video)) as file:
        for start in range(0, FRAMES, 10):
            assert shown(file, range(start, start + 10)) == list(range(start, start + 10))
    assert len(fed) == FRAMES


def test_a_group_too_large_to_be_held_is_decoded_on_the_way(video, monkeypatch):
    monkeypatch.setattr(packet_reader, "UNFED_BYTES", 2000)
    with VideoFile(str(video)) as file:
        for wanted in itertools.chain([(119,), (3, 118)], itertools.combinations((5, 47, 48, 90), 2)):
            assert shown(file, wanted) == list(wanted)


def test_damage_in_the_head_of_a_frame_that_others_refer_to_is_an_error(tmp_path):
    """A slice that names other parameters than there are: the decoder must not go on without it."""
    path = tmp_path / "damaged.mp4"
    write_video(path, range(30), ramp(30).tolist(), options=LONG_GROUPS_WITH_B_FRAMES | {"g": "30"})
    content = path.read_bytes()
    heads = [position + LENGTH_BYTES for position, _ in packet_places(path)]
    place = [head + 1 for head in heads if content[head + 1] >> 1 == START_OF_P_SLICE][1]
    overwrite(path, place, bytes([content[place] ^ 2]))
    with VideoFile(str(path)) as file:
        assert shown(file, [0]) == [0]
        with pytest.raises(RefusedError):
            shown(file, [29])


def test_a_frame_that_was_left_out_is_there_when_it_is_wanted(tmp_path):
    """Damage makes the file be read without leaving anything out; that must hold from then on."""
    path = tmp_path / "damaged.mp4"
    write_video(path, range(60), ramp(60).tolist(), options=LONG_GROUPS_WITH_B_FRAMES | {"g": "30"})
    position, size = packet_places(path)[8]
    overwrite(path, position + size // 2, bytes(size - size // 2))
    with VideoFile(str(path)) as file:
        with pytest.raises(RefusedError):
            shown(file, [29])
        for wanted in ([30, 59], [31], [33], list(range(30, 60))):
            assert shown(file, wanted) == wanted


def test_frames_that_no_other_refers_to_are_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "made.mp4"
    write_video(path, range(60), ramp(60).tolist(), options=LONG_GROUPS_WITH_B_FRAMES)
    kept = []
    is_dispensable = video_file.is_dispensable

    def note(packet, length_bytes):
        dispensable = is_dispensable(packet, length_bytes)
        kept.append(not dispensable)
        return dispensable

    monkeypatch.setattr(video_file, "is_dispensable", note)
    with VideoFile(str(path)) as file:
        assert shown(file, [57]) == [57]
    assert kept.count(False) > 20
    assert kept.count(True) > 10


@pytest.mark.parametrize("ticks_off", [-0.4, 0.0, 0.4])
def test_a_keyframe_costs_no_reading_of_the_group_before_it(tmp_path, monkeypatch, ticks_off):
    path = tmp_path / "made.mp4"
    options = {"preset": "veryfast", "g": "40", "bf": "0", "x264-params": "scenecut=0"}
    write_video(path, range(FRAMES), ramp(FRAMES).tolist(), options=options)
    read = []
    note_keyframe = PacketReader.note_keyframe
    monkeypatch.setattr(
        PacketReader,
        "note_keyframe",
        lambda reader, packet: (read.append(packet.pts), note_keyframe(reader, packet)),
    )
    with VideoFile(str(path)) as file:
        pictures = list(file.pictures_at([80 / 30 + ticks_off / TICKS_PER_SECOND], [TOLERANCE_SECONDS]))
    assert [shown_number(picture.rgb.transpose(2, 0, 1)) for picture in pictures] == [80]
    assert read == [80 / 30 * TICKS_PER_SECOND]
