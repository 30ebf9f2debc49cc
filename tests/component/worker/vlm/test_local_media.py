"""Pictures that go to the model server as files of a shared folder: the same questions, the same answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from tests.support.annotation import REFERENCE, run_command, write_manifest

from annotationrun_worker.demo.vlm_server import MODEL, DemoVlmServer, run_server
from annotationrun_worker.vlm.messages import text_part

MODULES: dict[str, dict[str, Any]] = {
    "pictures": {
        "plan": {"taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"},
        "vqa": {"emissionHz": 0.5},
    },
    "clips": {
        "plan": {"input": "VideoUrl", "taskRephrasings": 0, "emitMemory": False, "deriveTask": "Never"}
    },
}


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "shared media"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, media: Path) -> Iterator[DemoVlmServer]:
    with run_server(tmp_path / "log.jsonl", media_folder=media) as server:
        yield server


def annotate(
    folder: Path, server: DemoVlmServer, modules: dict[str, Any], *arguments: str | Path
) -> set[str]:
    """Names of the staged answers: digests of the requests."""
    folder.mkdir()
    manifest = write_manifest(folder, REFERENCE, server.base_url, modules, source={"episodes": "0-1"})
    done = run_command("annotate", "-f", manifest, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return {path.name for path in (folder / "output.staging" / "answers").rglob("*.json")}


def seen(log: Path) -> tuple[list[Any], set[str]]:
    """What the model saw in all, and the digests of the requests as they came."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    log.write_text("", encoding="utf-8")
    return sorted(json.dumps([line["kind"], line["images"], line["answer"]]) for line in lines), {
        line["digest"] for line in lines
    }


@pytest.mark.parametrize("kind", MODULES)
def test_the_model_sees_the_same_and_the_answers_are_staged_under_the_same_digests(
    kind: str, tmp_path: Path, media: Path, server: DemoVlmServer
) -> None:
    log = tmp_path / "log.jsonl"
    within = annotate(tmp_path / "within", server, MODULES[kind])
    saw, requests = seen(log)
    as_files = annotate(tmp_path / "as files", server, MODULES[kind], "--media-folder", media)
    saw_in_files, requests_with_files = seen(log)
    assert as_files == within != set()
    assert saw_in_files == saw != []
    assert requests.isdisjoint(requests_with_files), "no request was sent as it was before"
    assert list(media.iterdir()) == []


def test_a_server_opens_no_file_elsewhere(tmp_path: Path, media: Path, server: DemoVlmServer) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (media / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    client = OpenAI(base_url=server.base_url, api_key="none", max_retries=0)
    for path in (tmp_path / "secret.jpg", media / ".." / "secret.jpg", media / "link.jpg"):
        part = {"type": "image_url", "image_url": {"url": f"file://{path}"}}
        message: Any = {"role": "user", "content": [part, text_part('"count"')]}
        with pytest.raises(BadRequestError, match="must be a subpath"):
            client.chat.completions.create(model=MODEL, messages=[message])


def test_a_folder_that_is_not_there_ends_the_run_before_it_asks(
    tmp_path: Path, server: DemoVlmServer
) -> None:
    manifest = write_manifest(tmp_path, REFERENCE, server.base_url)
    done = run_command("annotate", "-f", manifest, "--media-folder", tmp_path / "none")
    assert done.returncode == 3
    assert "--allowed-local-media-path" in done.stderr
