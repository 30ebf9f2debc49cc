"""The script that makes LeRobot's environment, where it cannot."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "environment.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An empty cache, and no uv to fill it with."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "UV": str(tmp_path / "no-uv")}


def test_a_missing_tool_fails_the_build_and_is_named(environment: dict[str, str]) -> None:
    done = _run(environment)

    assert done.returncode == 1
    assert done.stdout == ""
    assert f"no uv at {environment['UV']}; run 'make environment' first" in done.stderr


def test_an_interrupted_build_is_not_taken_for_a_finished_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    _run(environment)
    (unfinished,) = tmp_path.glob("annotationrun/interop-*/")
    (unfinished / "env").mkdir()

    assert _run(environment).returncode == 1
    assert not (unfinished / "env").exists()
    (unfinished / ".ready").touch()
    assert _run(environment).stdout == f"{unfinished}/env/bin/python\n"


def _run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT)], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
