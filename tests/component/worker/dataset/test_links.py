"""Links and special files in a dataset: what leads out of it is refused by name, before anything is asked."""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.file_trees import tree
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode

CANARY = "hf_canary0123456789"
MODULES: dict[str, Any] = {"vqa": {"questionTypes": ["count"], "emissionHz": 0.1}}
ONE = {"source": {"episodes": "0"}}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REFERENCE, tmp_path / "dataset"))


def link_to(target: str | Path, name: str) -> Any:
    def make(dataset: Path) -> None:
        place = dataset / name
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.symlink_to(target)

    return make


def make_socket(dataset: Path) -> None:
    """Its path may be too long for a socket, so it is made in the folder."""
    before = Path.cwd()
    os.chdir(dataset / "meta")
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("x.sock")
    finally:
        os.chdir(before)


def make_info_a_pipe(dataset: Path) -> None:
    (dataset / "meta/info.json").unlink()
    os.mkfifo(dataset / "meta/info.json")


LEADS_OUT = "is a link out of the dataset"
ATTACKS = [
    pytest.param(link_to("/proc/self/environ", "meta/x"), LEADS_OUT, id="the environment"),
    pytest.param(link_to("/proc/self/environ", "meta/info.json"), LEADS_OUT, id="the environment as info"),
    pytest.param(link_to("/etc/passwd", "LICENSE"), LEADS_OUT, id="a file of the machine"),
    pytest.param(link_to("/proc/kmsg", "extra"), LEADS_OUT, id="a file that never ends"),
    pytest.param(link_to("/dev/zero", "videos/x.mp4"), LEADS_OUT, id="a device"),
    pytest.param(link_to("/etc", "meta/more"), LEADS_OUT, id="a folder of the machine"),
    pytest.param(link_to("../../../../../../../../etc/passwd", "data/x"), LEADS_OUT, id="up and away"),
    pytest.param(link_to("../secret", ".annotationrun"), LEADS_OUT, id="our own folder"),
    pytest.param(link_to("nowhere", "meta/x"), "a link that leads nowhere", id="nowhere"),
    pytest.param(link_to("x", "meta/x"), "a link that leads nowhere", id="itself"),
    pytest.param(link_to("..", "meta/up"), "a folder that it lies in", id="a circle"),
    pytest.param(make_info_a_pipe, "neither a file nor a folder", id="info as a pipe"),
    pytest.param(make_socket, "neither a file nor a folder", id="a socket"),
]


@pytest.mark.parametrize("command", ["plan", "run", "drop", "show", "validate"])
@pytest.mark.parametrize(("attack", "said"), ATTACKS)
def test_what_is_not_of_the_dataset_is_refused(
    attack: Any, said: str, command: str, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text(CANARY)
    attack(dataset)
    with demo_model() as server:
        manifest = write_manifest(tmp_path, dataset, server.base_url, MODULES, **ONE)
        arguments: dict[str, list[str | Path]] = {
            "plan": ["-f", manifest],
            "run": ["-f", manifest],
            "drop": [dataset, "--module", "vqa", "--output", tmp_path / "output"],
            "show": [dataset],
            "validate": [dataset],
        }
        done = run_command(command, *arguments[command], environment={"HF_TOKEN": CANARY})
        assert server.bodies == []
    assert done.returncode == ExitCode.DATASET, done.stderr
    assert said in done.stderr
    assert CANARY not in done.stderr + done.stdout
    assert not (tmp_path / "output").exists()
    assert (tmp_path / "secret/key").read_text() == CANARY


def test_links_within_a_dataset_and_in_the_cache_of_the_hub_are_followed(
    dataset: Path, tmp_path: Path
) -> None:
    """As `hf download` lays it out: a snapshot of links to blobs."""
    repository = tmp_path / "datasets--me--cups"
    snapshot, blobs = repository / "snapshots" / ("c" * 40), repository / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in dataset.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(dataset)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = path.rename(blobs / f"{number:064}")
        link.symlink_to(os.path.relpath(blob, link.parent))
    (snapshot / "COPY.json").symlink_to("meta/info.json")
    with demo_model() as server:
        manifest = write_manifest(tmp_path, snapshot, server.base_url, MODULES, **ONE)
        done = run_command("run", "-f", manifest)
        assert done.returncode == ExitCode.OK, done.stderr
    assert (tmp_path / "output/COPY.json").read_bytes() == (snapshot / "meta/info.json").read_bytes()
    stranger = tmp_path / "blobs"
    stranger.write_text(CANARY)
    (snapshot / "other").symlink_to(stranger)
    refused = run_command("plan", "-f", manifest)
    assert refused.returncode == ExitCode.DATASET
    assert LEADS_OUT in refused.stderr


def test_a_change_in_place_removes_no_folder_elsewhere(dataset: Path, tmp_path: Path) -> None:
    """A link to a folder of the dataset itself is none that leads out, and yet no place for a change."""
    (dataset / "videos/new").mkdir()
    (dataset / "videos/new/kept.mp4").write_bytes(b"kept")
    (dataset / ".annotationrun").symlink_to("videos")
    before = tree(dataset)
    output = {"path": str(dataset), "overwrite": True}
    with demo_model() as server:
        manifest = write_manifest(tmp_path, dataset, server.base_url, MODULES, output=output, **ONE)
        done = run_command("run", "-f", manifest)
        assert server.bodies == []
    assert done.returncode == ExitCode.OUTPUT, done.stderr
    assert ".annotationrun is a link" in done.stderr
    assert tree(dataset) == before
