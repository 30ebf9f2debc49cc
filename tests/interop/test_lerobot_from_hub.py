"""LeRobot loads by name what was pushed to the Hub."""

import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.interop.judge_process import make_environment
from tests.support.annotation import REFERENCE, run_command, write_manifest
from tests.support.hub_server.server import HubServer
from tests.support.module_runs import demo_model

from annotationrun_api.exit_codes import ExitCode

SOURCE = "me/source"
LOADER = Path(__file__).with_name("load_from_hub.py")


def loaded_by_lerobot(hub, repo, folder):
    known = {name: value for name, value in hub.environment.items() if name != "HF_TOKEN"}  # it is public
    environment = {**os.environ, **known, "HF_HOME": str(folder / "hf"), "HF_LEROBOT_HOME": str(folder)}
    done = subprocess.run(
        [make_environment(), LOADER, repo], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("output", [SOURCE, "me/annotated"], ids=["in place", "a new repository"])
def test_lerobot_loads_what_was_pushed(output, tmp_path):
    with HubServer() as hub:
        first = hub.add_repo(SOURCE, REFERENCE)
        hub.repo(SOURCE).tags["v3.0"] = first.sha
        with demo_model() as model:
            manifest = write_manifest(
                tmp_path, SOURCE, model.base_url, {"vqa": {"emissionHz": 1.0}}, output={"repoID": output}
            )
            done = run_command(
                "run", "-f", manifest, "--cache", tmp_path / "cache", "--staging", tmp_path / "staging",
                environment=hub.environment,
            )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stderr
        assert hub.repo(output).tags["v3.0"] == hub.commits(output)[0].sha
        loaded = loaded_by_lerobot(hub, output, tmp_path)
    frames = sum(pq.read_metadata(path).num_rows for path in (REFERENCE / "data").rglob("*.parquet"))
    assert loaded["frames"] == frames
    assert loaded["frames_with_events"] > 0
    assert loaded["cameras"] == ["observation.images.front", "observation.images.wrist"]
