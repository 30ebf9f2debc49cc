"""What a user is told where a source on the Hub can't be read: exit code, text, and no token."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session, constants
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.hub_server.server import DEFAULT_TOKEN, HubServer
from tests.support.hub_server.state import Account

from annotationrun_api.errors import AnnotationRunError
from annotationrun_api.exit_codes import ExitCode
from annotationrun_worker.commands.options import RunOptions
from annotationrun_worker.errors import StorageError
from annotationrun_worker.exit_status import exit_code_of
from annotationrun_worker.pipeline.steps import PlanReport, plan_run

REPO = "me/source"
SECRET = {"name": "hub", "key": "token"}
OTHERS_TOKEN = "hf_of_somebody_else"
SEEN_BY_PLAN = {
    path: b"a video, which no plan fetches" if path.endswith(".mp4") else (REFERENCE / path).read_bytes()
    for path in tree(REFERENCE)
}

Plan = Callable[..., PlanReport]


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_account(OTHERS_TOKEN, Account("somebody"))
        server.add_repo(REPO, SEEN_BY_PLAN)
        server.add_repo("me/private", SEEN_BY_PLAN, private=True)
        server.add_repo("me/gated", SEEN_BY_PLAN, gated="manual")
        server.add_repo("me/pictures", {"cat.png": b"PNG"})
        server.add_repo("me/evil", {**SEEN_BY_PLAN, "../../etc/x": b"x"})
        yield server
        close_session()


@pytest.fixture
def here(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plan:
    """Plans in this process, whose client of the Hub has read its environment long ago."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))

    def plan_here(
        source: dict[str, Any] | None = None, repo: str = REPO, cache: str = "cache", **environment: str
    ) -> PlanReport:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        manifest = write_manifest(tmp_path, repo, "http://127.0.0.1:9/v1", source=source or {})
        options = RunOptions(manifest, cache=tmp_path / cache)
        return plan_run(options.load(asks=False))

    return plan_here


def plan(hub: HubServer, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same as a user does it."""
    manifest = write_manifest(folder, REPO, "http://127.0.0.1:9/v1")
    return run_command(
        "plan", "-f", manifest, "--cache", folder / "cache",
        environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": "", "HF_HOME": str(folder), **environment},
    )  # fmt: skip


def test_a_public_dataset_needs_no_token(hub: HubServer, tmp_path: Path) -> None:
    done = plan(hub, tmp_path)
    assert done.returncode == ExitCode.OK, done.stderr


@pytest.mark.parametrize("repo", ["me/private", "me/gated"])
def test_a_private_or_gated_dataset_comes_to_whoever_may_read_it(here: Plan, repo: str) -> None:
    report = here(repo=repo, source={"tokenSecretRef": SECRET}, HF_TOKEN=DEFAULT_TOKEN)
    assert len(report.plan.episodes) == 6


def test_the_source_may_have_a_token_of_its_own(here: Plan) -> None:
    report = here(repo="me/private", HF_TOKEN=OTHERS_TOKEN, ANNOTATIONRUN_SOURCE_TOKEN=DEFAULT_TOKEN)
    assert len(report.plan.episodes) == 6


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        pytest.param(
            {"HF_ENDPOINT": "hub.example"},
            ["HF_ENDPOINT", "https://huggingface.co"],
            id="an address that is none",
        ),
        pytest.param(
            {"HF_HUB_OFFLINE": "1"},
            ["unset the environment variable HF_HUB_OFFLINE"],
            id="offline by order",
        ),
        pytest.param({"HF_TOKEN": "hf_of_nobody"}, ["the token is wrong"], id="a token that nobody has"),
        pytest.param({"HF_TOKEN": "hf_of\nnobody"}, ["HF_TOKEN holds no token"], id="no token at all"),
    ],
)
def test_what_is_wrong_with_the_environment_is_told(
    hub: HubServer, tmp_path: Path, environment: dict[str, str], words: list[str]
) -> None:
    done = plan(hub, tmp_path, **environment)
    assert done.returncode == ExitCode.CONFIGURATION, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert len(done.stderr) < 1000
    assert "Traceback" not in done.stderr
    assert "nobody" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        pytest.param(
            {"repo": "me/nothing"},
            ExitCode.CONFIGURATION,
            ["'me/nothing'", "no such repository, or it is private", "check its name"],
            id="no such repository",
        ),
        pytest.param(
            {"repo": "me/private"},
            ExitCode.CONFIGURATION,
            ["'me/private'", "HF_TOKEN", "tokenSecretRef"],
            id="private, no token",
        ),
        pytest.param(
            {"repo": "me/private", "HF_TOKEN": OTHERS_TOKEN},
            ExitCode.CONFIGURATION,
            ["'me/private'", "a token that may read it"],
            id="private, somebody else's token",
        ),
        pytest.param(
            {"repo": "me/gated", "HF_TOKEN": OTHERS_TOKEN},
            ExitCode.CONFIGURATION,
            ["'me/gated'", "accept its terms"],
            id="gated",
        ),
        pytest.param(
            {"source": {"revision": "v9"}},
            ExitCode.CONFIGURATION,
            [f"'{REPO}' at 'v9'", "no such branch, tag or commit"],
            id="no such revision",
        ),
        pytest.param(
            {"source": {"revision": "0" * 40}},
            ExitCode.CONFIGURATION,
            ["0" * 40, "no such branch, tag or commit"],
            id="no such commit",
        ),
        pytest.param(
            {"repo": "me/pictures"},
            ExitCode.DATASET,
            ["'me/pictures'", "no folder meta/", "LeRobot v3.0"],
            id="no dataset of LeRobot",
        ),
        pytest.param(
            {"repo": "me/evil"},
            ExitCode.DATASET,
            ["'../../etc/x'", "refused"],
            id="a path out of the repository",
        ),
        pytest.param(
            {"source": {"tokenSecretRef": SECRET}},
            ExitCode.CONFIGURATION,
            ["spec.source.tokenSecretRef", "HF_TOKEN", "hf auth login"],
            id="a token is named and there is none",
        ),
    ],
)
def test_what_is_wrong_is_told(here: Plan, options: dict[str, Any], code: ExitCode, words: list[str]) -> None:
    with pytest.raises(AnnotationRunError) as caught:
        here(**options)
    assert exit_code_of(caught.value) == code
    text = str(caught.value)
    assert [word for word in words if word not in text] == [], text
    assert len(text) < 1000
    assert OTHERS_TOKEN not in text


def test_a_cache_that_is_no_folder_is_told(here: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError, match="choose another folder with --cache"):
        here(cache="file")


def test_a_video_that_the_repository_lacks_is_named_by_plan(tmp_path: Path, hub: HubServer) -> None:
    """Also one of episodes that nobody selects: the output would lack it."""
    video = "videos/observation.images.front/chunk-000/file-000.mp4"
    hub.add_repo("me/holed", {p: (REFERENCE / p).read_bytes() for p in tree(REFERENCE) if p != video})
    modules = {"vqa": {"emissionHz": 0.1, "cameras": "Default"}}
    manifest = write_manifest(
        tmp_path, "me/holed", "http://127.0.0.1:9/v1", modules,
        source={"episodes": "4"}, failurePolicy={"maxFailedEpisodes": 1},
    )  # fmt: skip
    done = run_command("plan", "-f", manifest, "--cache", tmp_path / "cache", environment=hub.environment)
    assert done.returncode == ExitCode.DATASET, done.stderr
    assert f"dataset 'me/holed' has no file '{video}'" in done.stderr
