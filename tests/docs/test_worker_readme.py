"""The example in `worker/README.md` runs as it stands over a real dataset, and shows the frames it says."""

import base64
import io
import re

import av
import numpy as np
import PIL.Image
import pytest
import torch
from tests.support.checkout import REFERENCE, ROOT

from annotationrun_worker.demo.frame_code import read as read_code

README = (ROOT / "worker" / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The names that the example leaves behind."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "my_dataset").symlink_to(REFERENCE)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    names = {}
    exec(compile(code, "worker/README.md", "exec"), names)
    return names


def media(part, kind):
    """What the data URL of a part holds."""
    assert part["type"] == kind
    return base64.b64decode(part[kind]["url"].partition(",")[2])


def picture(part):
    return np.asarray(PIL.Image.open(io.BytesIO(media(part, "image_url"))))


def test_the_example_makes_of_each_frame_what_a_server_takes(example):
    frames, video, episode = example["frames"], example["video"], example["episode"]
    assert (frames.dtype, tuple(frames.shape)) == (torch.uint8, (2, 3, 240, 320))
    *images, question = example["pictures"]
    assert question["type"] == "text"
    codes = [read_code(picture(part)) for part in images]
    assert [(code["index"], code["camera"]) for code in codes] == [(0, 1), (45, 1)], "30 frames a second"
    for part, frame in zip(images, frames, strict=True):
        off = picture(part).astype(float) - frame.permute(1, 2, 0).numpy()
        assert np.abs(off).mean() < 4, "JPEG is off by little, a frame with its axes mixed up by much"

    *parts, question = example["whole"]
    assert question["type"] == "text"
    assert [part["text"] for part in parts[::2]] == [f"frame {number} of 8" for number in range(1, 9)]
    shown = [read_code(picture(part))["index"] for part in parts[1::2]]
    assert shown == np.rint(np.linspace(0, episode.frame_count - 1, 8)).astype(int).tolist()
    assert len(video) == 8

    clip, question = example["clip"]
    assert question["type"] == "text"
    with av.open(io.BytesIO(media(clip, "video_url"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == episode.frame_count
