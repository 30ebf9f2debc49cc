"""Fixtures: datasets that LeRobot's own writer wrote, and one that LeRobot's own pipeline annotated.

A test module asks for them with `pytest_plugins = ["tests.interop.lerobot_written"]`. Both are made once and
kept beside LeRobot's environment, under a name that changes with what makes them; tests get a copy.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.interop.judge_process import make_environment
from tests.interop.lerobot_pipeline import lerobot_annotate, lerobot_environment
from tests.interop.lerobot_recordings import RECORDINGS
from tests.support import plausible_model
from tests.support.annotated_dataset import copy_dataset

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "data" / "lerobot_v3"
FRAME_CODE = HERE.parents[1] / "worker" / "annotationrun_worker" / "demo" / "frame_code.py"
REQUIREMENTS = HERE / "requirements.txt"
MAKE_TIMEOUT_SECONDS = 600  # 30 s on two idle cores
VQA_HZ = 0.5
"""Of LeRobot's pipeline: half its default, enough to see that rows survive."""


@pytest.fixture(scope="session")
def lerobot_written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The datasets of lerobot_recordings.py by name, without annotations."""
    script = HERE / "write_datasets.py"

    def make(folder: Path) -> None:
        _run([str(make_environment()), str(script), str(folder)], folder)

    kept = _kept("written", [script, HERE / "lerobot_recordings.py", FRAME_CODE, REQUIREMENTS], make)
    copies = tmp_path_factory.mktemp("written")
    return {r.name: copy_dataset(kept / r.name, copies / r.name) for r in RECORDINGS}


@pytest.fixture(scope="session")
def lerobot_annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference dataset, annotated by LeRobot's own pipeline with all its modules."""
    makers = [Path(__file__), HERE / "lerobot_pipeline.py", Path(plausible_model.__file__), REQUIREMENTS]
    kept = _kept("annotated", makers, _annotate_reference)
    return copy_dataset(kept / "dataset", tmp_path_factory.mktemp("by_lerobot") / "annotated")


def _annotate_reference(folder: Path) -> None:
    dataset = copy_dataset(REFERENCE, folder / "dataset")
    with plausible_model.plausible_server() as server:
        options = [f"--vqa.vqa_emission_hz={VQA_HZ}"]
        _run(
            lerobot_annotate(make_environment(), dataset, server.base_url, plausible_model.MODEL, options),
            folder,
        )
        assert server.counts.refused == [], "prompts of LeRobot that the server does not know"
    shutil.rmtree(dataset / ".annotate_staging")


def _run(command: Sequence[str], scratch: Path) -> None:
    environment = os.environ | lerobot_environment(scratch / "cache")
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=MAKE_TIMEOUT_SECONDS,
        cwd=scratch,
        env=environment,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stderr[-4000:]}"


def _kept(name: str, inputs: Sequence[Path], make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, from an earlier test run where `inputs` have not changed since."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annotationrun"
    kept = cache / f"lerobot-{name}-{digest}"
    if kept.exists():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"lerobot-{name}-new-") as scratch:
        folder = Path(scratch) / "made"
        folder.mkdir()
        make(folder)
        try:
            folder.rename(kept)
        except OSError:  # another test run was faster
            if not kept.exists():
                raise
    return kept
