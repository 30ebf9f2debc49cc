"""`annotationrun prefetch` from a Hub: what lies in the folder then, what is asked and said."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import snapshot_download
from tests.support.annotation import run_command
from tests.support.hub_server.faults import Fault, When
from tests.support.hub_server.server import HubServer
from tests.support.hub_server.state import Account

from annotationrun_api.exit_codes import ExitCode
from annotationrun_api.step_results import PrefetchResult, read_result

MODEL = "org/tiny-vl"
FILES = {
    "config.json": b'{"architectures": ["Tiny"]}',
    "tokenizer.json": b"{}" * 500,
    "model-00001-of-00002.safetensors": bytes(range(256)) * 400,
    "model-00002-of-00002.safetensors": bytes(range(255, -1, -1)) * 300,
    "extra/generation_config.json": b"{}",
}
BYTES = sum(map(len, FILES.values()))


@dataclass
class Fetching:
    """A Hub, and a folder to fetch into."""

    hub: HubServer
    place: Path
    folder: Path
    patch: pytest.MonkeyPatch = field(repr=False)

    def __call__(
        self, model_id: str = MODEL, revision: str = "main", token: str = "", *options: str
    ) -> "Fetched":
        model = {"id": model_id, "revision": revision}
        spec = {"source": {"path": "in"}, "output": {"path": "out"}, "model": model, "modules": {"vqa": {}}}
        manifest = {
            "apiVersion": "annotationrun.dev/v1alpha1",
            "kind": "AnnotationRun",
            "metadata": {"name": "test"},
            "spec": spec,
        }
        (self.place / "manifest.yaml").write_text(yaml.safe_dump(manifest))
        (self.place / "result").unlink(missing_ok=True)
        self.patch.setenv("HF_TOKEN", token)
        before = len(self.hub.counters.log)
        done = run_command(
            "prefetch", "--file", self.place / "manifest.yaml", "--folder", self.folder,
            "--result", self.place / "result", *options,
        )  # fmt: skip
        told = self.place / "result"
        return Fetched(
            done,
            read_result(told.read_bytes(), PrefetchResult) if told.exists() else None,
            [line.kind for line in self.hub.counters.log[before:]],
        )

    def offline(self, revision: str) -> dict[str, bytes]:
        """What a server without a network has of the model: contents by path."""
        found = snapshot_download(
            MODEL, revision=revision, cache_dir=self.folder / "hub", local_files_only=True
        )
        return {
            str(path.relative_to(found)): path.read_bytes()
            for path in Path(found).rglob("*")
            if path.is_file()
        }


@dataclass
class Fetched:
    """A command that has ended."""

    done: subprocess.CompletedProcess[str]
    result: PrefetchResult | None
    asked: list[str]
    """Kinds of the requests that the Hub got meanwhile."""

    @property
    def said(self) -> str:
        return self.done.stdout + self.done.stderr


@pytest.fixture
def fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fetching]:
    with HubServer() as hub:
        hub.add_repo(MODEL, FILES, "model")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        (tmp_path / "models").mkdir()
        yield Fetching(hub, tmp_path, tmp_path / "models", monkeypatch)


def commit_of(fetching: Fetching) -> str:
    return fetching.hub.commits(MODEL, repo_type="model")[0].sha


def test_a_model_is_fetched_whole_and_a_server_finds_it_offline_by_its_commit(fetching: Fetching) -> None:
    fetched = fetching()
    assert fetched.done.returncode == ExitCode.OK, fetched.said
    commit = commit_of(fetching)
    assert fetched.result is not None
    assert fetched.result.commit == commit
    assert commit in fetched.said
    contents = fetching.offline(commit)
    assert {name: contents[name] for name in FILES} == FILES
    attributes = contents.keys() - FILES.keys()
    assert attributes == {".gitattributes"}
    assert fetched.result.files == len(contents)
    assert fetched.result.size_bytes == sum(map(len, contents.values()))


def test_what_is_there_is_not_asked_for_again_though_the_branch_moved(fetching: Fetching) -> None:
    first = fetching()
    fetching.hub.append_commit(MODEL, {"config.json": b'{"architectures": []}'}, repo_type="model")
    again = fetching()
    assert again.asked == []
    assert "there already" in again.said
    assert again.result == first.result
    newer = fetching(revision=commit_of(fetching))
    assert newer.result is not None
    assert newer.result.commit == commit_of(fetching) != first.result.commit  # type: ignore[union-attr]
    assert newer.asked.count("resolve") == 1, "of the new commit only the file that differs is fetched"


def test_the_commit_that_was_planned_is_fetched_though_the_branch_moved(fetching: Fetching) -> None:
    planned = commit_of(fetching)
    fetching.hub.append_commit(MODEL, {"config.json": b'{"architectures": []}'}, repo_type="model")
    fetched = fetching(MODEL, "main", "", "--model-revision", planned)
    assert fetched.result is not None
    assert fetched.result.commit == planned != commit_of(fetching)
    assert fetching.offline(planned)["config.json"] == FILES["config.json"]


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_a_file_that_is_damaged_is_fetched_again(fetching: Fetching, damage: str) -> None:
    fetching()
    (found,) = (fetching.folder / "hub").rglob("model-00001-of-00002.safetensors")
    blob = found.resolve()
    if damage == "gone":
        found.unlink()
        blob.unlink()
    else:
        found.unlink()
        blob.write_bytes(b"short")
        found.symlink_to(blob)
    again = fetching()
    assert again.done.returncode == ExitCode.OK, again.said
    assert (
        fetching.offline(commit_of(fetching))["model-00001-of-00002.safetensors"]
        == FILES["model-00001-of-00002.safetensors"]
    )


def test_a_private_model_is_fetched_with_its_token_which_is_told_nowhere(fetching: Fetching) -> None:
    fetching.hub.repo(MODEL, "model").private = True
    refused = fetching()
    assert refused.done.returncode == ExitCode.CONFIGURATION
    assert refused.result is None
    for word in (MODEL, "no such repository, or it is private", "HF_TOKEN", "tokenSecretRef"):
        assert word in refused.said
    fetching.hub.add_account("hf_reader", Account("org"))
    fetched = fetching(token="hf_reader")
    assert fetched.done.returncode == ExitCode.OK, fetched.said
    assert "hf_reader" not in fetched.said + json.dumps(fetched.result.model_dump())  # type: ignore[union-attr]
    assert not any(b"hf_reader" in path.read_bytes() for path in fetching.place.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        pytest.param({"model_id": "org/none"}, ["org/none", "no such repository"], id="no such model"),
        pytest.param(
            {"revision": "v9"}, [MODEL, "v9", "no such branch, tag or commit"], id="no such revision"
        ),
        pytest.param({"model_id": "/mnt/model"}, ["/mnt/model", "no repository on the Hub"], id="a folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(fetching: Fetching, asked: Any, words: list[str]) -> None:
    fetched = fetching(**asked)
    assert fetched.done.returncode == ExitCode.CONFIGURATION
    assert fetched.result is None
    for word in words:
        assert word in fetched.said


def test_a_gated_model_says_whose_terms_are_to_be_accepted(fetching: Fetching) -> None:
    fetching.hub.repo(MODEL, "model").gated = "auto"
    fetched = fetching()
    assert fetched.done.returncode == ExitCode.CONFIGURATION
    assert "accept its terms" in fetched.said


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("status", 503), id="busy"),
        pytest.param(Fault("cut", after_bytes=1000), id="cut"),
    ],
)
def test_a_transfer_that_breaks_goes_on(fetching: Fetching, fault: Fault) -> None:
    fetching.hub.faults.add(fault, When(path="model-00001"), times=1)
    fetched = fetching()
    assert fetching.hub.faults.hit
    assert fetched.done.returncode == ExitCode.OK, fetched.said
    assert fetching.offline(commit_of(fetching)).items() >= FILES.items()


def test_a_refused_transfer_is_told_without_the_signature_of_its_address(fetching: Fetching) -> None:
    fetching.hub.faults.add(Fault("status", 410), When(kind="cdn"), times=None)
    fetched = fetching()
    assert fetched.done.returncode != ExitCode.OK
    assert fetched.result is None
    assert "410" in fetched.said
    assert "Signature" not in fetched.said


@pytest.fixture
def small_disk(fetching: Fetching) -> Iterator[Path]:
    """A disk of 100 kB, less than the model has; needs root."""
    assert BYTES > 100_000
    options = ["-t", "tmpfs", "-o", "size=100k", "tmpfs"]
    subprocess.run(["mount", *options, str(fetching.folder)], check=True)
    yield fetching.folder
    subprocess.run(["umount", "--lazy", str(fetching.folder)], check=True)


@pytest.mark.needs_root
def test_a_claim_that_is_too_small_is_found_before_anything_is_fetched(
    fetching: Fetching, small_disk: Path
) -> None:
    fetched = fetching()
    assert fetched.done.returncode == ExitCode.STORAGE
    assert fetched.asked == ["info"]
    for word in (MODEL, "bytes", f"{shutil.disk_usage(small_disk).free:,} free", "spec.model.serving.cache"):
        assert word in fetched.said


def test_a_folder_that_can_not_be_written_is_told(fetching: Fetching) -> None:
    (fetching.folder / "hub").write_text("a file in the way")
    fetched = fetching()
    assert fetched.done.returncode == ExitCode.STORAGE
    assert "spec.model.serving.cache" in fetched.said
