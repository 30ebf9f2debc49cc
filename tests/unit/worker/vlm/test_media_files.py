"""Pictures of requests as files: what stands in the request then, and how long a file stays."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from annotationrun_worker.errors import ConfigurationError
from annotationrun_worker.vlm.messages import image_part, text_part, to_video_url_block
from annotationrun_worker.vlm.transport import KnownImages, MediaFolder


def body_of(*parts):
    said = [{"role": "assistant", "content": "no"}]
    return {"model": "m", "messages": [{"role": "user", "content": [*parts, text_part("?")]}, *said]}


def urls(body):
    return [part[part["type"]]["url"] for part in body["messages"][0]["content"] if part["type"] != "text"]


def contents(body):
    return [Path(urlsplit(url).path).read_bytes() for url in urls(body)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_picture_is_a_file_as_long_as_its_request_is_under_way(tmp_path):
    media, body = MediaFolder(tmp_path), body_of(image_part(b"one"), image_part(b"two"), image_part(b"one"))
    with media.lent(body) as lent:
        assert contents(lent) == [b"one", b"two", b"one"]
        assert all(url.startswith("file://") and url.endswith(".jpg") for url in urls(lent))
        assert len(files(tmp_path)) == 2
        assert lent["messages"][1] == body["messages"][1]
        assert lent["messages"][0]["content"][-1] == text_part("?")
    assert files(tmp_path) == []
    assert body == body_of(image_part(b"one"), image_part(b"two"), image_part(b"one"))


def test_a_file_of_two_requests_stays_until_the_later_ends(tmp_path):
    media = MediaFolder(tmp_path)
    with media.lent(body_of(image_part(b"shared"))) as first:
        with media.lent(body_of(image_part(b"shared"), image_part(b"own"))) as second:
            assert urls(first)[0] == urls(second)[0]
        assert contents(first) == [b"shared"]
        assert len(files(tmp_path)) == 1
    assert files(tmp_path) == []


def test_a_request_that_fails_leaves_no_file(tmp_path):
    media = MediaFolder(tmp_path)
    with pytest.raises(TimeoutError), media.lent(body_of(image_part(b"one"))):
        raise TimeoutError
    assert files(tmp_path) == []


def test_a_folder_that_is_full_takes_no_more_and_the_rest_goes_within_the_request(tmp_path):
    media = MediaFolder(tmp_path, max_bytes=10)
    body = body_of(image_part(b"12345"), image_part(b"123456"), image_part(b"54321"))
    with media.lent(body) as lent:
        assert [url[:5] for url in urls(lent)] == ["file:", "data:", "file:"]
        assert urls(lent)[1] == urls(body)[1]
        with media.lent(body_of(image_part(b"6"))) as other:
            assert urls(other)[0].startswith("data:")
    with media.lent(body_of(image_part(b"123456"))) as later:
        assert contents(later) == [b"123456"]


def test_a_clip_is_a_file_too(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"moov")
    folder = tmp_path / "a folder"
    folder.mkdir()
    with MediaFolder(folder).lent(body_of(to_video_url_block(clip))) as lent:
        (name,) = files(folder)
        assert name.endswith(".mp4")
        assert urls(lent) == [(folder / name).as_uri()]


def test_a_picture_that_is_named_only_needs_no_file(tmp_path):
    known, body = KnownImages(), body_of(image_part(b"one"))
    wire, uuids, left_out = known.wire_body(body)
    known.taken(uuids, left_out)
    again, _, _ = known.wire_body(body)
    media = MediaFolder(tmp_path)
    with media.lent(wire) as lent:
        assert lent["messages"][0]["content"][0]["uuid"] == uuids[0], "the same as of a data URL"
    with media.lent(again) as lent:
        assert lent == again
        assert files(tmp_path) == []


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none.*--allowed-local-media-path"):
        MediaFolder(tmp_path / "none")
