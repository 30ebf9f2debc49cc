"""Which pictures of a request are named and not sent, and what a server's counters say of its caches."""

import pytest

from annotationrun_worker.vlm import transport as known_images
from annotationrun_worker.vlm.messages import image_part, text_part
from annotationrun_worker.vlm.server import ServerCounts
from annotationrun_worker.vlm.transport import KnownImages, picture_uuid


def body_of(*pictures):
    content = [text_part("what is it?"), *(image_part(picture) for picture in pictures)]
    said = [{"role": "assistant", "content": "no"}, {"role": "user", "content": "again"}]
    return {"model": "m", "messages": [{"role": "user", "content": content}, *said], "seed": 1}


def sent(body):
    """The pictures that are in the request themselves, and the names of all."""
    parts = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return [part["image_url"] is not None for part in parts], [part["uuid"] for part in parts]


def send(known, *pictures):
    body, uuids, left_out = known.wire_body(body_of(*pictures))
    known.taken(uuids, left_out)
    return sent(body)[0]


def test_a_picture_is_sent_until_the_server_has_answered_about_it():
    known = KnownImages()
    known.wire_body(body_of(b"a"))
    assert send(known, b"a", b"b") == [True, True]
    assert send(known, b"b", b"c", b"a") == [False, True, False]
    assert known.left_out == 2


def test_a_name_is_that_of_the_pictures_bytes_and_nothing_else_of_the_request_changes():
    body = body_of(b"a", b"b", b"a")
    wire, uuids, _ = KnownImages().wire_body(body)
    assert sent(wire)[1] == uuids
    assert uuids[0] == uuids[2] == picture_uuid(image_part(b"a")) != uuids[1]
    for message in wire["messages"][:1]:
        for part in message["content"]:
            part.pop("uuid", None)
    assert wire == body == body_of(b"a", b"b", b"a")


def test_what_the_server_misses_is_sent_again():
    known = KnownImages()
    send(known, b"a", b"b")
    _, uuids, left_out = known.wire_body(body_of(b"a", b"b"))
    assert left_out == 2
    known.missed(uuids)
    assert send(known, b"a", b"b") == [True, True]


def test_only_so_many_pictures_are_remembered_those_seen_last(monkeypatch):
    monkeypatch.setattr(known_images, "_REMEMBERED", 2)
    known = KnownImages()
    send(known, b"a", b"b")
    send(known, b"a", b"c")
    assert send(known, b"b") == [True]
    assert send(known, b"c") == [False]


METRICS = """# HELP vllm:prefix_cache_queries_total Prefix cache queries, in number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="tiny-vl"} 1043.0
vllm:prefix_cache_queries_created{engine="0",model_name="tiny-vl"} 1.7952898081177962e+09
vllm:prefix_cache_hits_total{engine="0",model_name="tiny-vl"} 512.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="tiny-vl"} 7.0
vllm:mm_cache_queries_total{engine="0",model_name="tiny-vl"} 1.2e+06
vllm:mm_cache_queries_total{engine="1",model_name="tiny-vl"} 1.0
vllm:mm_cache_hits_total{engine="0",model_name="tiny-vl"} 3.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny-vl"} 80.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny-vl"} 7.0
vllm:request_success_total{engine="0",finished_reason="abort",model_name="tiny-vl"} 2.0
"""
"""As vLLM 0.32 sends them."""


def test_the_counters_of_all_engines_are_summed():
    assert ServerCounts.read(METRICS) == ServerCounts(87, 512, 1043, 3, 1_200_001)


@pytest.mark.parametrize(
    "metrics",
    [
        pytest.param("", id="nothing"),
        pytest.param("<html>vllm:mm_cache_hits</html>", id="a web page"),
        pytest.param("llamacpp:prompt_tokens_total 12", id="of another server"),
    ],
)
def test_a_server_without_these_counters_tells_nothing(metrics):
    assert ServerCounts.read(metrics) is None


def test_counters_that_began_anew_count_from_nothing():
    before, after = ServerCounts(9, 500, 1000, 5, 10), ServerCounts(1, 20, 40, 1, 2)
    assert after.since(before) == after
    assert before.since(ServerCounts(4, 100, 400, 5, 5)) == ServerCounts(5, 400, 600, 0, 5)
