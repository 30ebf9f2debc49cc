"""Clips (`spec.modules.plan.input: VideoUrl`): a server that takes none is found out before it is asked."""

import base64
import io

import av
import pytest
from tests.support.module_runs import demo_model, run_here
from tests.support.openai_server import Reply
from tests.support.vllm_like import VllmLike

from annotationrun_worker.errors import ConfigurationError, RequestFailedError
from annotationrun_worker.vlm.request import is_probe

QUIET = {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}
CLIPS = {"plan": {**QUIET, "input": "VideoUrl", "maxVideoFrames": 8}}
THE_FIRST = {"source": {"episodes": "0"}}
ADVICE = "set spec.modules.plan.input to ContactSheets or Frames"


def clips_in(body):
    """The clips in a request: (width, height, times of the frames)."""
    clips = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "video_url":
            mp4 = base64.b64decode(part["video_url"]["url"].partition(",")[2])
            with av.open(io.BytesIO(mp4)) as container:
                frames = list(container.decode(video=0))
            clips.append((frames[0].width, frames[0].height, [round(frame.time, 3) for frame in frames]))
    return clips


def no_clips(status, words):
    """A server that refuses each request with a clip, and answers all others."""

    def refusing(default):
        def script(number, body):
            return Reply(status=status, error=words) if clips_in(body) else default(number, body)

        return script

    return refusing


def test_the_server_is_tried_with_a_clip_like_the_largest_that_follow(tmp_path):
    with demo_model() as server:
        report = run_here(tmp_path, server.base_url, CLIPS, source={"episodes": "0-2"})
        tried = [(clips_in(body), body["mm_processor_kwargs"]) for body in server.probes if clips_in(body)]
        asked = [(clips_in(body), body["mm_processor_kwargs"]) for body in server.bodies]
    (probe,) = tried
    assert probe == max(asked, key=lambda found: len(found[0][0][2]))
    assert len(probe[0][0][2]) == 8
    assert report.annotated.server.clip_frames == 8
    assert "; a clip of 8 frames is taken; " in report.annotated.server.line()
    assert report.to_value()["server"]["clipFrames"] == 8


@pytest.mark.parametrize(
    "others", [{}, {"vqa": {"questionTypes": ["count"]}}], ids=["clips alone", "and pictures"]
)
@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(
            400, "Invalid value: 'video_url'. Supported values are: 'text', 'image_url'", id="OpenAI"
        ),
        pytest.param(404, "No endpoints found that support this input", id="a router"),
        pytest.param(422, "messages.0.content.0.type: unexpected value", id="unprocessable"),
        pytest.param(500, "Internal Server Error", id="it breaks at the clip"),
    ],
)
def test_a_server_that_fails_at_clips_alone_ends_the_run_before_its_first_question(
    tmp_path, monkeypatch, status, words, others
):
    monkeypatch.setattr("annotationrun_worker.vlm.client.PROBE_RETRIES", 0)
    with demo_model() as server:
        server.probe = no_clips(status, words)(server.probe)
        with pytest.raises(ConfigurationError) as raised:
            run_here(tmp_path, server.base_url, CLIPS | others, **THE_FIRST)
        assert server.bodies == []
    said = str(raised.value)
    assert "(a clip of 5 frames of 320x240 pixels, " in said
    assert words in said
    assert "it takes the same request without the clip" in said
    assert ADVICE in said


def test_vllms_own_words_for_it_are_understood(tmp_path):
    with demo_model() as server:
        VllmLike(lambda body: Reply("{}"), max_videos=0).serve_as(server)
        with pytest.raises(ConfigurationError, match=rf"At most 0 video\(s\) may be provided .*{ADVICE}"):
            run_here(tmp_path, server.base_url, CLIPS, **THE_FIRST)
        assert server.bodies == []
        assert len(server.probes) == 1


def test_a_context_that_is_too_short_for_a_clip_names_the_setting_of_its_length(tmp_path):
    with demo_model() as server:
        VllmLike(lambda body: Reply("{}"), max_model_len=3000, tokens_per_image=3000).serve_as(server)
        with pytest.raises(
            ConfigurationError, match=r"a clip of 5 frames .*spec\.modules\.plan\.maxVideoFrames"
        ):
            run_here(tmp_path, server.base_url, CLIPS, **THE_FIRST)
        assert server.bodies == []


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(Reply(status=401, error="not for you"), ConfigurationError, id="another key"),
        pytest.param(Reply(status=500, error="out of memory"), RequestFailedError, id="broken"),
    ],
)
def test_a_server_that_fails_at_everything_is_not_said_to_fail_at_clips(tmp_path, monkeypatch, reply, error):
    monkeypatch.setattr("annotationrun_worker.vlm.client.PROBE_RETRIES", 0)
    monkeypatch.setattr("annotationrun_worker.vlm.client.TRANSPORT_RETRIES", 0)
    with demo_model(lambda number, body: reply) as server:
        server.probe = lambda number, body: reply
        with pytest.raises(Exception, match=r"not for you|out of memory") as raised:
            run_here(tmp_path, server.base_url, CLIPS, workers={"episodeAttempts": 1}, **THE_FIRST)
        assert all(is_probe(body) for body in server.probes)
        assert any(not clips_in(body) for body in server.probes), "it was asked without the clip"
    assert ADVICE not in str(raised.value)
    assert isinstance(raised.value, ConfigurationError) == (error is ConfigurationError)
