"""A real vLLM with the arguments and variables of a run's sidecar, offline, beside a worker of the run."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.real_vllm import RealVllm, real_vllm, vllm_folder

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.manifest import load_manifest
from annotationrun_api.step_results import PrefetchResult, read_result
from annotationrun_operator.manifests.installation import JobSettings
from annotationrun_operator.manifests.sidecar import MEDIA_FOLDER, MODELS_FOLDER, sidecar

pytestmark = pytest.mark.timeout(1800)  # a start of vLLM, on a machine that does other things too

MODEL = "org/tiny-vl"
QUESTIONS: dict[str, Any] = {
    "vqa": {"emissionHz": 0.2, "cameras": "Default", "questionTypes": ["count", "attribute"]}
}


@dataclass(frozen=True)
class Pod:
    """What the containers of a worker's pod share."""

    server: RealVllm
    media: Path
    fetched: PrefetchResult


def manifest_at(folder: Path, endpoint: str = "http://127.0.0.1:1/v1") -> Path:
    """A run whose answers do not tell what is asked next."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "id": MODEL,
        "serving": {"cache": {"claimName": "models"}, "localMedia": True, "gpus": 0},
        "contextTokens": 16384,
        "maxOutputTokens": 64,
    }
    policy = {"maxFailedEpisodes": 6, "maxUnansweredPercent": 100}
    limits = {"episodeAttempts": 1}
    return write_manifest(
        folder, REFERENCE, endpoint, QUESTIONS, model=model, failurePolicy=policy, workers=limits
    )


def fetch(folder: Path, models: Path) -> PrefetchResult:
    """The model, from a Hub that is gone afterwards."""
    models.mkdir()
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        hub.add_repo(MODEL, vllm_folder() / "models/vision", "model")
        patch.setenv("HF_ENDPOINT", hub.url)
        told = folder / "result"
        done = run_command("prefetch", "-f", manifest_at(folder), "--folder", models, "--result", told)
        assert done.returncode == ExitCode.OK, done.stderr
        return read_result(told.read_bytes(), PrefetchResult)


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    folder = tmp_path_factory.mktemp("pod")
    models, media = folder / "models", folder / "media"
    media.mkdir()
    fetched = fetch(folder / "prefetch", models)
    spec = load_manifest(manifest_at(folder)).spec
    container = sidecar(spec, JobSettings("worker", "vllm"), fetched.commit)
    places = {MODELS_FOLDER: str(models), MEDIA_FOLDER: str(media)}
    taken = ("--host=", "--port=")
    options = [word for word in container["args"][1:] if not word.startswith(taken)]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    subprocess.run(["mount", "--bind", models, models], check=True)  # as the claim in the pod; needs root
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", models], check=True)
        with real_vllm(
            folder,
            model=container["args"][0],
            arguments=[_here(word, places) for word in options],
            variables={name: _here(value, places) for name, value in variables.items() if name != "HOME"},
        ) as server:
            yield Pod(server, media, fetched)
    finally:
        subprocess.run(["umount", "--lazy", models], check=True)


def _here(word: str, places: dict[str, str]) -> str:
    """Paths of the pod as paths of this machine."""
    for inside, outside in places.items():
        if word == inside or word.endswith(f"={inside}"):
            return word.removesuffix(inside) + outside
    return word


def annotate(folder: Path, pod: Pod, *arguments: str | Path) -> tuple[dict[str, Any], set[str]]:
    """The report, and the names of the staged answers, which are digests of the requests."""
    manifest = manifest_at(folder, pod.server.base_url)
    done = run_command(
        "annotate",
        "-f",
        manifest,
        "--endpoint",
        pod.server.base_url,
        "--report",
        folder / "report.json",
        *arguments,
    )
    assert done.returncode == ExitCode.OK, done.stderr + done.stdout
    answers = (folder / "output.staging" / "answers").rglob("*.json")
    return json.loads((folder / "report.json").read_text(encoding="utf-8")), {path.name for path in answers}


def test_a_fetched_model_is_served_offline_from_a_volume_that_is_not_written(pod: Pod) -> None:
    log = pod.server.log.read_text(encoding="utf-8", errors="replace")
    assert pod.fetched.commit in log
    assert pod.server.process.poll() is None


def test_pictures_as_files_are_the_same_questions_and_leave_nothing_behind(pod: Pod, tmp_path: Path) -> None:
    within, asked_within = annotate(tmp_path / "within", pod)
    before = pod.server.answered()
    as_files, asked_as_files = annotate(tmp_path / "files", pod, "--media-folder", pod.media)
    counts = as_files["usage"].values()
    assert sum(kind["answered"] for kind in counts) == pod.server.answered() - before > 0
    assert asked_as_files == asked_within != set()
    assert list(pod.media.iterdir()) == []
    kinds = {name for name in as_files["usage"] if name.startswith("vqa")}
    assert kinds
    for kind in kinds:
        assert as_files["usage"][kind]["prompt_tokens"] == within["usage"][kind]["prompt_tokens"]


def test_cached_tokens_are_told(pod: Pod, tmp_path: Path) -> None:
    report, _ = annotate(tmp_path / "run", pod, "--media-folder", pod.media)
    assert sum(kind["cached_tokens"] for kind in report["usage"].values()) > 0
