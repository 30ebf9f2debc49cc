"""Frames as parts of a request: those of arrays, and those of the frame provider's tensors."""

import base64
import io

import numpy as np
import PIL.Image
import pytest
import torch

from annotationrun_worker.vlm.messages import to_image_blocks, to_video_block

ARRAY = np.stack([np.full((12, 16, 3), colour, np.uint8) for colour in [(200, 30, 30), (30, 30, 200)]])
ARRAY[:, :4] = 255
"""(n, height, width, 3): a white bar at the top, red and blue below it."""
TENSOR = torch.from_numpy(np.ascontiguousarray(ARRAY.transpose(0, 3, 1, 2)))


def pixels(part):
    jpeg = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return np.asarray(PIL.Image.open(io.BytesIO(jpeg)))


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(TENSOR, id="a tensor"),
        pytest.param(list(TENSOR), id="single tensors"),
        pytest.param(list(ARRAY), id="single arrays"),
        pytest.param(TENSOR.clone().contiguous(memory_format=torch.channels_last), id="other strides"),
    ],
)
def test_frames_are_the_same_parts_however_they_come(frames):
    parts = to_image_blocks(frames)
    assert parts == to_image_blocks(ARRAY)
    for part, frame in zip(parts, ARRAY, strict=True):
        assert np.abs(pixels(part).astype(int) - frame).mean() < 5


@pytest.mark.parametrize("frames", [TENSOR[:0], ARRAY[:0], []], ids=["a tensor", "an array", "a list"])
def test_no_frames_are_no_parts(frames):
    assert to_image_blocks(frames) == to_video_block(frames) == []


def test_one_channel_is_grey():
    grey = to_image_blocks(TENSOR[:, :1])
    assert grey == to_image_blocks(ARRAY[..., :1].repeat(3, axis=-1))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        pytest.param(
            TENSOR.float() / 255, r"a tensor of torch\.float32 and shape \(3, 12, 16\)", id="floats"
        ),
        pytest.param(ARRAY / 255, r"an array of float64 and shape \(12, 16, 3\)", id="an array of floats"),
        pytest.param(
            TENSOR[0], r"a tensor of torch\.uint8 and shape \(12, 16\)", id="one frame, not several"
        ),
        pytest.param(
            TENSOR.permute(0, 2, 3, 1), r"a tensor .* shape \(12, 16, 3\)", id="a tensor with channels last"
        ),
        pytest.param(
            ARRAY.transpose(0, 3, 1, 2), r"an array .* shape \(3, 12, 16\)", id="an array with channels first"
        ),
    ],
)
def test_what_is_no_frame_is_refused_and_what_is_expected_is_said(frames, said):
    with pytest.raises(ValueError, match=rf"{said} is no frame; expected several, each of uint8"):
        to_image_blocks(frames)


def test_a_video_has_the_time_of_each_frame_or_its_number_before_it():
    first, second = to_image_blocks(TENSOR)
    timed, numbered = to_video_block(TENSOR, [0.0, 1.25]), to_video_block(TENSOR)
    assert [part.get("text", part) for part in timed] == ["0.00 s", first, "1.25 s", second]
    assert [part.get("text", part) for part in numbered] == ["frame 1 of 2", first, "frame 2 of 2", second]
    with pytest.raises(ValueError, match="zip"):
        to_video_block(TENSOR, [0.0])
