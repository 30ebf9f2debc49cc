"""What a server's words say of its limits: those of vLLM 0.32 to the letter, and of others."""

import pytest

from annotationrun_worker.vlm.server_errors import limit_advice

PICTURES, CLIPS, COUNT, SIZE, CONTEXT = (
    "this model takes no pictures",
    "this model takes no clips",
    "--limit-mm-per-prompt",
    "a picture is too large",
    "--max-model-len",
)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        pytest.param("tiny is not a multimodal model", PICTURES, id="vLLM, a text model"),
        pytest.param(
            "At most 0 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt` to increase this "
            "limit. (parameter=image)",
            PICTURES,
            id="vLLM, pictures switched off",
        ),
        pytest.param("At most 0 video(s) may be provided in one prompt.", CLIPS, id="vLLM, no clips"),
        pytest.param("this model does not support video input", CLIPS, id="a server of pictures alone"),
        pytest.param(
            "image input is not supported - hint: ...mmproj", PICTURES, id="llama.cpp, a text model"
        ),
        pytest.param(
            "At most 8 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt` to increase this "
            "limit. (parameter=image)",
            COUNT,
            id="vLLM, too many pictures for its settings",
        ),
        pytest.param(
            "At most 1 image(s) may be provided in one prompt. (parameter=image)", COUNT, id="vLLM, too many"
        ),
        pytest.param(
            "At most 1 video(s) may be provided in one prompt.",
            COUNT,
            id="vLLM, too many clips for the model",
        ),
        pytest.param(
            "You set image=1 (or defaulted to 1) in `--limit-mm-per-prompt`, but passed 2 image items in the "
            "same prompt.",
            COUNT,
            id="vLLM 0.8, too many pictures",
        ),
        pytest.param(
            "The decoder prompt contains a(n) image item with 9000 embedding tokens, which exceeds the "
            "pre-allocated encoder cache size 8192. Please reduce the input size or increase the encoder "
            "cache size by setting --limit-mm-per-prompt at startup.",
            SIZE,
            id="vLLM, too large a picture",
        ),
        pytest.param(
            "This model's maximum context length is 2048 tokens. However, your prompt contains at least 2049 "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the length "
            "of the input prompt. (parameter=input_tokens, value=2049)",
            CONTEXT,
            id="vLLM, too long a prompt",
        ),
        pytest.param(
            "max_tokens=3000 cannot be greater than max_model_len=2048. Please request fewer output tokens.",
            CONTEXT,
            id="vLLM, too long an answer",
        ),
        pytest.param(
            "Input length (3000) exceeds model's maximum context length (2048).", CONTEXT, id="vLLM, late"
        ),
        pytest.param(
            "the request exceeds the available context size, try increasing it", CONTEXT, id="llama.cpp"
        ),
    ],
)
def test_the_limit_and_the_settings_that_lift_it_are_named(words, advice):
    said = limit_advice(f"Error code: 400 - {words}", "spec.modules.x")
    assert advice in said
    assert "spec.model" in said
    assert advice in {PICTURES, CLIPS} or "spec.modules.x" in said


@pytest.mark.parametrize(
    "words", ["content policy", "Unknown parameter: 'uuid'", "response_format is not supported", "", "busy"]
)
def test_other_words_get_no_advice(words):
    assert limit_advice(words) == ""
