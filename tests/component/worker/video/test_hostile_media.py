"""Videos and pictures that were made to fill the memory: a run ends in time, and says why."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tests.support.annotation import write_manifest
from tests.support.attacks import attacked
from tests.support.bad_input import count_blocks
from tests.support.image_dataset import FRONT, encoded, write_image_dataset
from tests.support.openai_server import scripted_server
from tests.support.tiny_dataset import video_path, write_tiny_dataset
from tests.support.video_assets import write_pictures

from annotationrun_api.exit_codes import ExitCode

MODULES = {"vqa": {"questionTypes": ["count"], "emissionHz": 1.0}}
FIRST = {"source": {"episodes": "0"}, "workers": {"episodeAttempts": 1}}
SIDE = 8192


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")


@pytest.fixture(scope="module")
def huge_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "huge.mp4"
    write_pictures(path, [np.full((SIDE, SIDE, 3), 90, np.uint8)] * 2, [0.0, 0.1])
    return path


def false_counts(video: Path, frames: int) -> None:
    """Let the tables of an mp4 of few frames claim so many, of a byte each, in one chunk."""
    content = bytearray(video.read_bytes())
    for box, values in ((b"stsz", (1, frames)), (b"stts", (1, frames, 512)), (b"stsc", (1, 1, frames, 1))):
        struct.pack_into(f">{len(values)}I", content, content.index(box) + 8, *values)
    video.write_bytes(content)


def annotate(name, folder, dataset, printed, command="run"):
    with scripted_server(count_blocks, ("demo-vlm",)) as server:
        manifest = write_manifest(folder, dataset, server.base_url, MODULES, **FIRST)
        done = attacked(printed, name, command, "-f", manifest)
        assert server.bodies == []
    return done


@pytest.mark.parametrize("frames", [1_000_000, 12_000_000, 30_000_000, 2**31 - 1])
def test_a_video_that_claims_more_frames_than_it_has_bytes(frames, tiny, tmp_path, printed):
    dataset = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    false_counts(dataset / video_path(), frames)
    done = annotate(f"mp4 of 3 KB that claims {frames} frames", tmp_path, dataset, printed)
    assert done.returncode == ExitCode.INCOMPLETE
    assert "file-000.mp4" in done.stderr


@pytest.mark.parametrize("told", [(64, 48), (4096, 4096)])
def test_a_video_of_more_pixels_than_any_camera_has(told, tiny, huge_video, tmp_path, printed):
    dataset = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    shutil.copyfile(huge_video, dataset / video_path())
    tell_size(dataset, told)
    name = f"H.264 of {SIDE} x {SIDE}, {told[0]} x {told[1]} told"
    done = annotate(name, tmp_path, dataset, printed)
    assert done.returncode in {ExitCode.DATASET, ExitCode.INCOMPLETE}
    assert f"{SIDE} x {SIDE}" in done.stderr


def test_a_size_that_no_camera_has_is_refused_before_anything(tiny, tmp_path, printed):
    dataset = Path(shutil.copytree(tiny, tmp_path / "dataset"))
    tell_size(dataset, (9000, 9000))
    done = annotate("9000 x 9000 told", tmp_path, dataset, printed, "plan")
    assert done.returncode == ExitCode.DATASET
    assert "9000 x 9000 pixels, expected at most 40000000 in all" in done.stderr


@pytest.mark.parametrize("side", [9000, 6000])
def test_pictures_that_are_larger_than_told(side, tmp_path, printed):
    content = encoded(PIL.Image.new("RGB", (side, side), (9, 90, 30)), "PNG")
    dataset = write_image_dataset(
        tmp_path / "dataset",
        {FRONT: "image"},
        lengths=(30,),
        picture_of=lambda index, camera, episode: {"bytes": content, "path": None},
    )
    done = annotate(f"PNG of {side} x {side}, 320 x 240 told", tmp_path, dataset, printed)
    assert done.returncode == ExitCode.INCOMPLETE
    assert f"{side} x {side}" in done.stderr


def tell_size(dataset: Path, size: tuple[int, int]) -> None:
    """Have meta/info.json tell another (width, height) of the camera."""
    path = dataset / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    for feature in info["features"].values():
        if feature["dtype"] == "video":
            feature["shape"] = [size[1], size[0], 3]
    path.write_text(json.dumps(info), encoding="utf-8")
