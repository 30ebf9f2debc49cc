"""Bad datasets: what is broken is named, the other episodes are done and staged, and a repair is enough."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.annotated_dataset import edit_json
from tests.support.annotation import CAMERAS, REFERENCE, read_frames
from tests.support.bad_input import REPAIRED, REQUESTS, Bench, Case, Outcome, check_failure, check_success
from tests.support.image_dataset import FRONT, WRIST, write_image_dataset
from tests.support.module_runs import EVERY_MODULE, look

from annotationrun_api.exit_codes import ExitCode

FRONT_VIDEO = f"videos/{CAMERAS[0]}/chunk-000/file-001.mp4"
"""Holds episodes 4 and 5."""
ROWS = "data/chunk-000/file-002.parquet"
"""Holds episode 5."""
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
NOBODY = 65534


def damage_info(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "meta/info.json", edit)


def no_info(root: Path) -> None:
    (root / "meta/info.json").unlink()


def no_cameras(info: dict[str, Any]) -> None:
    for camera in CAMERAS:
        del info["features"][camera]


def no_video(root: Path) -> None:
    (root / FRONT_VIDEO).unlink()


def truncated_video(root: Path) -> None:
    os.truncate(root / FRONT_VIDEO, (root / FRONT_VIDEO).stat().st_size // 3)


def empty_video(root: Path) -> None:
    os.truncate(root / FRONT_VIDEO, 0)


def somebody_elses_video(root: Path) -> None:
    (root / FRONT_VIDEO).chmod(0o600)
    os.chown(root / FRONT_VIDEO, NOBODY, NOBODY)


def video_of_codec(fourcc: bytes) -> Callable[[Path], None]:
    """The file calls its packets those of another codec."""

    def damage(root: Path) -> None:
        content = (root / FRONT_VIDEO).read_bytes()
        place = content.index(b"av01", content.index(b"stsd"))
        (root / FRONT_VIDEO).write_bytes(content[:place] + fourcc + content[place + 4 :])

    return damage


def edit_rows(edit: Callable[[list[float]], list[float]]) -> Callable[[Path], None]:
    """The timestamps of episode 5 changed by ``edit``."""

    def damage(root: Path) -> None:
        table = pq.read_table(root / ROWS)
        place = table.column_names.index("timestamp")
        times = pa.array(edit(table["timestamp"].to_pylist()), pa.float32())
        pq.write_table(table.set_column(place, table.schema.field(place), times), root / ROWS)

    return damage


def span_beyond_the_file(root: Path) -> None:
    table = pq.read_table(root / EPISODES)
    for name, seconds in (("from_timestamp", 100.0), ("to_timestamp", 135.0)):
        column = f"videos/{CAMERAS[0]}/{name}"
        place = table.column_names.index(column)
        values = [*table[column].to_pylist()[:-1], seconds]
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(table, root / EPISODES)


@dataclass(frozen=True)
class BadDataset(Case):
    """A copy of the reference dataset, damaged."""

    damage: Callable[[Path], None] = no_info
    may_read_all: bool = True


CAMERA = "camera 'observation.images.front'"
NAN, WIDE = float("nan"), 40.0

WHOLE = [
    BadDataset(
        "missing info.json",
        ExitCode.DATASET,
        (r"dataset/meta/info\.json does not exist", "expected the folder of a LeRobot v3.0 dataset"),
        no_info,
    ),
    BadDataset(
        "v2.1",
        ExitCode.DATASET,
        (r"info\.json: codebase_version is 'v2\.1', expected 'v3\.0'", "convert_dataset_v21_to_v30"),
        damage_info(lambda info: info.update(codebase_version="v2.1")),
    ),
    BadDataset(
        "no camera",
        ExitCode.CONFIGURATION,
        ("the dataset has no camera", r"meta/info\.json", r"another dataset in spec\.source"),
        damage_info(no_cameras),
    ),
    BadDataset("missing mp4", ExitCode.DATASET, (CAMERA, "is missing; is the download complete"), no_video),
    BadDataset("mp4 of zero bytes", ExitCode.DATASET, (CAMERA, r"is empty \(0 bytes\)"), empty_video),
    BadDataset(
        "mp4 with mode 0600 of another uid",
        ExitCode.DATASET,
        (CAMERA, "this user may not read", f"mode 0600, owner uid {NOBODY}", r"chmod a\+r"),
        somebody_elses_video,
        may_read_all=False,
    ),
]
OF_AN_EPISODE = [
    BadDataset(
        "timestamps that run on",
        ExitCode.DATASET,
        (r"file-002\.parquet', row 0: timestamp is 40\.0+ s, but frame 0 .* stands at 0\.0+ s",),
        edit_rows(lambda times: [time + WIDE for time in times]),
    ),
    BadDataset(
        "NaN timestamp",
        ExitCode.DATASET,
        (r"file-002\.parquet', row 10: timestamp is nan, expected a finite number",),
        edit_rows(lambda times: [*times[:10], NAN, *times[11:]]),
    ),
    BadDataset(
        "repeated timestamp",
        ExitCode.DATASET,
        (
            r"file-002\.parquet', row 10: timestamp 0\.3\d* s follows 0\.3\d* s",
            "expected timestamps that rise",
        ),
        edit_rows(lambda times: [*times[:10], times[9], *times[11:]]),
    ),
]
"""What metadata and rows show; the other episodes are whole."""
WHILE_DECODING = [
    BadDataset("truncated mp4", ExitCode.INCOMPLETE, (CAMERA, "damaged or cut off"), truncated_video),
    BadDataset(
        "a codec without a decoder",
        ExitCode.INCOMPLETE,
        (CAMERA, "no decoder for the video's codec", "convert it"),
        video_of_codec(b"zzzz"),
    ),
    BadDataset(
        "packets of another codec than the file says",
        ExitCode.INCOMPLETE,
        (CAMERA, "decoding failed"),
        video_of_codec(b"avc1"),
    ),
    BadDataset(
        "an episode beyond its video", ExitCode.INCOMPLETE, (CAMERA, "holds no packet"), span_beyond_the_file
    ),
]


def repaired(bench: Bench) -> Outcome:
    shutil.rmtree(bench.dataset)
    bench.copy_dataset()
    return bench.run(**REPAIRED)


def parameters(cases: Sequence[BadDataset]) -> list[Any]:
    marks = [[] if case.may_read_all else [pytest.mark.needs_root] for case in cases]
    return [pytest.param(case, id=case.name, marks=mark) for case, mark in zip(cases, marks, strict=True)]


@pytest.mark.parametrize("case", parameters([*WHOLE, *OF_AN_EPISODE]))
def test_a_dataset_that_can_not_be_used_is_refused_before_anything_is_asked(
    case: BadDataset, bench: Bench, staged_first: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    bench.stage(staged_first)
    before = bench.staged()
    assert before
    case.damage(bench.copy_dataset())
    bad = bench.run(may_read_all=case.may_read_all)
    tabulate("dataset", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.asked == 0
    assert bench.staged().items() >= before.items()
    good = repaired(bench)
    check_success(good, bench)
    assert good.asked == REQUESTS[5]


@pytest.mark.parametrize("case", parameters(OF_AN_EPISODE))
def test_a_broken_episode_that_may_fail_is_left_out_and_the_others_are_published(
    case: BadDataset, bench: Bench
) -> None:
    case.damage(bench.copy_dataset())
    done = bench.run(failurePolicy={"maxFailedEpisodes": 1})
    assert done.exit_code == ExitCode.OK, done.stderr
    assert done.asked == REQUESTS[0]
    assert "failed: episode 5, *: " in done.stdout
    assert "counts as failed" in done.stdout
    episodes = read_frames(bench.output)
    assert any(episodes[0].events)
    assert not any(episodes[5].events)


@pytest.mark.parametrize("case", parameters(WHILE_DECODING))
def test_a_broken_episode_fails_alone_and_is_all_that_a_rerun_asks_for(
    case: BadDataset, bench: Bench, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    case.damage(bench.copy_dataset())
    bad = bench.run()
    tabulate("dataset", case.name, bad)
    check_failure(case, bad, bench)
    assert bad.message.startswith("annotationrun: 1 of 2 episodes failed")
    assert bad.message.splitlines()[1].startswith("  episode 5, ")
    assert len(list(bench.staging.glob("results/vqa/*/*.jsonl"))) == 1, "episode 0 is done"
    good = repaired(bench)
    check_success(good, bench)
    assert bad.asked >= REQUESTS[0]
    assert bad.asked + good.asked == REQUESTS[0] + REQUESTS[5], "nothing is asked twice"


def h264_under_metadata_of_av1(root: Path) -> None:
    path = root / FRONT_VIDEO
    source = path.rename(path.with_suffix(".old.mp4"))
    encode = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "30", "-bf", "0", "-fps_mode", "passthrough"]
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-i", str(source), *encode, str(path)]
    subprocess.run(command, check=True, timeout=120)
    source.unlink()


def subtask_index(root: Path) -> None:
    for path in sorted(root.glob("data/*/*.parquet")):
        table = pq.read_table(path)
        pq.write_table(table.append_column("subtask_index", pa.array([0] * table.num_rows)), path)
    feature = {"dtype": "int64", "shape": [1], "names": None}
    damage_info(lambda info: info["features"].update(subtask_index=feature))(root)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(
            "H.264 under metadata of AV1", h264_under_metadata_of_av1, id="another codec that decodes"
        ),
        pytest.param("subtask_index present", subtask_index, id="subtask_index"),
    ],
)
def test_what_is_odd_and_readable_is_annotated(
    name: str, change: Callable[[Path], None], bench: Bench, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    change(bench.copy_dataset())
    done = bench.run()
    tabulate("dataset", name, done)
    check_success(done, bench)
    assert done.asked == REQUESTS[0] + REQUESTS[5]
    info = json.loads((bench.output / "meta/info.json").read_text())
    assert "subtask_index" not in info["features"]
    paths = sorted(bench.output.glob("data/*/*.parquet"))
    assert len(paths) == 3
    for path in paths:
        assert "subtask_index" not in pq.read_schema(path).names
    assert (REFERENCE / "meta/info.json").is_file()


def test_an_episode_of_one_frame_is_annotated(
    tmp_path: Path, tabulate: Callable[[str, str, Outcome], None]
) -> None:
    source = write_image_dataset(tmp_path / "dataset", {FRONT: "video", WRIST: "image"}, lengths=(40, 1, 25))
    bench = Bench(tmp_path, dataset=source, episodes="0,1", modules=EVERY_MODULE)
    done = bench.run(script=lambda number, body: look(body))
    tabulate("dataset", "an episode of one frame", done)
    check_success(done, bench)
