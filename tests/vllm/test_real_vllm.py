"""`annotationrun run` against a real vLLM; its model talks nonsense, the protocol around it is real."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, read_frames, run_command, write_manifest
from tests.support.real_vllm import SERVED_NAME, RealVllm, real_vllm

from annotationrun_api.exit_codes import ExitCode

pytestmark = pytest.mark.timeout(1800)  # up to two starts of vLLM, on a machine that does other things too

EPISODES = set(range(6))
# Its points lie where chance puts them, often outside the picture: such questions are unanswered, and an
# episode with more of them than half fails.
MODULES: dict[str, Any] = {
    "plan": {"taskRephrasings": 2, "framesPerSecond": 0.5},
    "vqa": {"emissionHz": 0.2, "cameras": "Default", "questionTypes": ["count", "keypoint"]},
}
POLICY = {"maxFailedEpisodes": 5, "maxUnansweredPercent": 60}


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    asked_of_vllm: int
    """Requests that vLLM counted meanwhile."""

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return report

    @property
    def said(self) -> str:
        return self.done.stdout + self.done.stderr


def annotate(server: RealVllm, folder: Path, *arguments: str, model_id: str = SERVED_NAME) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "id": model_id,
        "serving": {"mode": "External", "endpoints": [server.base_url]},
        "contextTokens": 16384,
        "maxOutputTokens": 64,
        "coordinateScale": "Pixels",
    }
    manifest = write_manifest(
        folder,
        REFERENCE,
        server.base_url,
        MODULES,
        model=model,
        failurePolicy=POLICY,
        workers={"episodeAttempts": 1},
    )
    before = server.answered()
    done = run_command("run", "-f", manifest, "--report", folder / "report.json", *arguments)
    return Run(done, folder, server.answered() - before)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVllm]:
    with real_vllm(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="module", params=[1, 3], ids=["one worker", "three workers"])
def run(request: pytest.FixtureRequest, server: RealVllm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = annotate(server, tmp_path_factory.mktemp("run"), f"--workers={request.param}")
    assert run.done.returncode == ExitCode.OK, run.said
    return run


def test_episodes_are_annotated_and_the_dataset_is_valid(run: Run) -> None:
    validated = run_command("validate", run.output)
    assert validated.returncode == ExitCode.OK, validated.stdout
    with_rows = {
        number
        for number, episode in read_frames(run.output).items()
        if any(row["style"] == "subtask" for row in episode.persistent)
    }
    assert with_rows
    assert with_rows == EPISODES - {failure["episode"] for failure in run.report["failures"]}


def test_each_failed_episode_and_each_hole_is_named_with_its_cause(run: Run) -> None:
    """How many there are is chance, and other on another processor; of 12 points or so some lie outside."""
    failures, unanswered = run.report["failures"], run.report["unanswered"]
    assert failures or unanswered
    published = json.loads((run.output / "meta/annotationrun.json").read_text(encoding="utf-8"))
    assert published["failedEpisodes"] == sorted({failure["episode"] for failure in failures})
    for failure in failures:
        assert failure["cause"]
        assert f"episode {failure['episode']}, {failure['module']}: {failure['cause']}" in run.said
    for question in unanswered:
        assert question["kind"] == "vqa_keypoint"
        assert question["cause"]
        place = ", ".join(
            [
                f"episode {question['episode']}",
                f"frame {question['frame']}",
                question["camera"],
                question["kind"],
            ]
        )
        assert f"unanswered: {place}: {question['cause']}" in run.said


def test_a_hole_has_no_row_and_every_other_question_has_its_two(run: Run) -> None:
    unanswered = {(question["episode"], question["frame"]) for question in run.report["unanswered"]}
    failed = {failure["episode"] for failure in run.report["failures"]}
    for number, episode in read_frames(run.output).items():
        asked = [frame for frame in range(0, len(episode.timestamps), 150) if number not in failed]
        found = [frame for frame, events in enumerate(episode.events) if events]
        assert found == [frame for frame in asked if (number, frame) not in unanswered]
        assert bool(found) == (number not in failed)
        assert all(len(episode.events[frame]) == 2 for frame in found)


def test_the_workers_count_what_vllm_counts(run: Run) -> None:
    usage = run.report["usage"].values()
    assert sum(kind["answered"] for kind in usage) == run.asked_of_vllm > 0
    assert sum(kind["failed"] + kind["retries"] for kind in usage) == 0


def test_a_model_name_that_differs_ends_the_run_before_it_asks(server: RealVllm, tmp_path: Path) -> None:
    run = annotate(server, tmp_path, model_id="another-vl")
    assert run.done.returncode == ExitCode.CONFIGURATION, run.said
    assert f"serves '{SERVED_NAME}', not 'another-vl'" in run.said
    assert "spec.model.id" in run.said
    assert run.asked_of_vllm == 0
    assert not run.output.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param(
            {"max_model_len": 1024},
            r"maximum context length is 1024 tokens.*--max-model-len.*spec\.model\.serving\.args",
            id="a context that is too small",
        ),
        pytest.param(
            {"weights": "text"},
            r"not a multimodal model.*takes no pictures.*spec\.model\.id",
            id="a model that takes no images",
        ),
    ],
)
def test_a_server_that_cannot_take_the_prompts_ends_the_run_with_cause_and_setting(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with real_vllm(tmp_path / "vllm", **settings) as server:
        run = annotate(server, tmp_path / "run")
        assert run.done.returncode == ExitCode.CONFIGURATION, run.said
        assert re.search(words, run.said, re.DOTALL), run.said
        assert run.asked_of_vllm == 0
        assert not run.output.exists()
