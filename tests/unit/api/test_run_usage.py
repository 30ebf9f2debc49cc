"""What a run has cost, by the hour of video, and in words."""

import pytest

from annotationrun_api.run_usage import RunUsage

MOST = (1 << 53) - 1
USED = RunUsage(requests=41, answered=40, retries=2, prompt_tokens=123_456, completion_tokens=7_890)


def test_what_was_used_is_told_by_the_hour_of_video():
    usage = USED.with_gpu_seconds(1_200).with_video_seconds(1_270)
    assert usage.gpu_seconds_per_video_hour == round(1_200 * 3600 / 1_270) == 3_402
    assert usage.tokens_per_video_hour == round((123_456 + 7_890) * 3600 / 1_270) == 372_319
    again = usage.with_gpu_seconds(2_400)
    assert again.gpu_seconds_per_video_hour == 6_803
    assert again.tokens_per_video_hour == usage.tokens_per_video_hour


def test_without_video_nothing_is_divided():
    usage = USED.with_gpu_seconds(1_200).with_video_seconds(0)
    assert (usage.gpu_seconds_per_video_hour, usage.tokens_per_video_hour) == (0, 0)


def test_no_number_outgrows_what_a_status_can_hold():
    usage = RunUsage(prompt_tokens=MOST, completion_tokens=MOST).with_gpu_seconds(MOST).with_video_seconds(1)
    assert RunUsage.model_validate(usage.model_dump()) == usage
    assert usage.tokens_per_video_hour == usage.gpu_seconds_per_video_hour == MOST


@pytest.mark.parametrize(
    ("usage", "text"),
    [
        pytest.param(
            USED.with_gpu_seconds(1_200).with_video_seconds(1_270),
            "41 requests, 123,456 prompt and 7,890 output tokens, 1,200 GPU-seconds; "
            "3,402 GPU-seconds and 0.4 M tokens a video-hour",
            id="all is known",
        ),
        pytest.param(
            USED.with_video_seconds(36_000),
            "41 requests, 123,456 prompt and 7,890 output tokens; 13,135 tokens a video-hour",
            id="GPUs of others",
        ),
        pytest.param(
            USED.with_gpu_seconds(9),
            "41 requests, 123,456 prompt and 7,890 output tokens, 9 GPU-seconds",
            id="no episode is done",
        ),
        pytest.param(
            RunUsage().with_video_seconds(60), "0 requests, 0 prompt and 0 output tokens", id="nothing asked"
        ),
        pytest.param(
            RunUsage(requests=1), "1 request, 0 prompt and 0 output tokens", id="one that was given up"
        ),
    ],
)
def test_it_is_one_line_for_people(usage, text):
    assert usage.text() == text
