"""Counts and timelines of a dataset annotated by hand."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from tests.support.annotated_dataset import annotate_by_hand, copy_dataset, edit_json
from tests.support.checkout import REFERENCE

from annotationrun_worker.errors import DatasetError
from annotationrun_worker.language.show import counts_table, row_counts, timeline


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return annotate_by_hand(
        REFERENCE, tmp_path_factory.mktemp("hand") / "annotated", without_rows=frozenset({5})
    )


def test_rows_are_counted_once_an_episode(annotated: Path) -> None:
    counts = row_counts(annotated)
    assert list(counts) == [0, 1, 2, 3, 4, 5]
    # 120 frames: a question to two cameras every 30 frames, each with its answer
    assert counts[0] == {
        "subtask": 3, "plan": 3, "memory": 2, "task_aug": 2, "interjection": 1, "speech": 2, "vqa": 16,
    }  # fmt: skip
    assert counts[5] == {}


def test_the_table_has_a_line_an_episode_and_totals(annotated: Path) -> None:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(counts_table(row_counts(annotated)))
    lines = capture.get().splitlines()
    columns = lines[2].replace("┃", " ").split()
    assert columns == [
        "episode", "subtask", "plan", "memory", "task_aug", "interjection", "speech", "vqa", "total",
    ]  # fmt: skip
    numbers = [line.replace("│", " ").split() for line in lines if line.startswith("│")]
    assert numbers[0] == ["0", "3", "3", "2", "2", "1", "2", "16", "29"]
    assert numbers[5] == ["5", *["0"] * 8]
    assert numbers[-1][:3] == ["all", "15", "15"]


def test_a_timeline_tells_the_episode_in_order_of_time(annotated: Path) -> None:
    head, *lines = timeline(annotated, 0)
    task = "Pick up the red cube and place it in the blue bin"
    assert head == f"episode 0: {task!r}, 120 frames, 0.00 s to 3.97 s, 29 rows"
    times = [float(line.split(" s ")[0]) for line in lines]
    assert times == sorted(times)
    assert lines[0] == "     0.00 s  subtask       pick up the block  (until 1.33 s)"
    assert "     0.00 s    speech      'I will move the block.'" in lines
    asked = "     0.00 s    vqa         observation.images.front  "
    question = lines.index(f"{asked}Q: Where is the block?")
    assert lines[question + 1].startswith(f'{asked}A: {{"detections"')
    assert "     1.33 s    plan        1. carry the block / 2. place the block" in lines


def test_an_episode_that_does_not_exist_is_named_with_those_that_do(annotated: Path) -> None:
    with pytest.raises(DatasetError, match=r"no episode 6, it has 0-5; correct --episode"):
        timeline(annotated, 6)


def test_a_folder_without_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"does not exist; expected the folder of a LeRobot v3\.0"):
        row_counts(tmp_path)


@pytest.mark.parametrize("look", [row_counts, partial(timeline, episode=0)], ids=["counts", "a timeline"])
def test_a_dataset_that_is_not_annotated_is_said(look: Callable[[Path], object]) -> None:
    with pytest.raises(DatasetError, match=r"is not annotated.*annotationrun run"):
        look(REFERENCE)


@pytest.mark.parametrize("look", [row_counts, partial(timeline, episode=0)], ids=["counts", "a timeline"])
def test_a_dataset_of_another_version_is_said(
    look: Callable[[Path], object], annotated: Path, tmp_path: Path
) -> None:
    older = copy_dataset(annotated, tmp_path / "older")
    edit_json(older / "meta/info.json", lambda info: info.update(codebase_version="v2.1"))
    with pytest.raises(DatasetError, match=r"'v2.1', expected 'v3.0'; convert it"):
        look(older)
