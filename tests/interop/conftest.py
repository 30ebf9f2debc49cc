"""LeRobot's environment, the judge, and the datasets to be judged."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.interop.judge_process import make_environment, run_judge
from tests.support.annotated_dataset import annotate_by_hand
from tests.support.annotation import THIN_MODULES, annotated, run_command
from tests.support.checkout import REFERENCE as REFERENCE_DATASET

EVERY_MODULE: dict[str, Any] = {"plan": {}, "interjections": {}, "vqa": {}}


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Mapping[str, Any]]:
    """Judges datasets by name, with options of judge.py; an environment that cannot be made is a failure."""
    python = make_environment()

    def run(datasets: Mapping[str, Path], *options: str) -> Mapping[str, Any]:
        return run_judge(python, datasets, tmp_path_factory.mktemp("judge") / "report.json", options)

    return run


@pytest.fixture(scope="session")
def reference_dataset() -> Path:
    """The dataset that LeRobot's own writer wrote, without annotations."""
    return REFERENCE_DATASET


@pytest.fixture(scope="session")
def hand_annotated(reference_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference dataset annotated with pyarrow alone; the last episode has no rows."""
    destination = tmp_path_factory.mktemp("hand") / "annotated"
    return annotate_by_hand(reference_dataset, destination, without_rows=frozenset({5}))


@pytest.fixture(scope="session")
def annotated_datasets(hand_annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The datasets that must please LeRobot, by name: by hand, and by `annotationrun` in all its ways."""
    folder = tmp_path_factory.mktemp("runs")
    datasets = {"annotated by hand": hand_annotated}
    ways: dict[str, dict[str, Any]] = {
        "reference": {},
        "some episodes": {"source": {"episodes": "0,2,4"}},
        "plan alone": {"modules": {"plan": THIN_MODULES["plan"]}, "source": {"episodes": "0-2"}},
        "every module": {
            "modules": {"plan": {}, "interjections": {}, "vqa": {}},
            "source": {"episodes": "1,3"},
        },
        "vqa alone": {"modules": {"vqa": {"framesPerTick": 2}}, "source": {"episodes": "0-1"}},
    }
    for name, spec in ways.items():
        with annotated(folder / name, REFERENCE_DATASET, **spec) as annotation:
            datasets[name] = annotation.output
    done = run_command("demo", folder / "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    return datasets | {"demo": folder / "demo" / "annotated"}
