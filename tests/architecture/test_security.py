"""What scanners find in the source: weaknesses that bandit knows, and secrets that were left in a file."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.checkout import ROOT

BANDIT = ("bandit", "--quiet", "--severity-level=medium", "--recursive")
SECRETS = (
    "detect_secrets.pre_commit_hook",
    # Digests of commits, and fields that name a Secret of Kubernetes.
    "--disable-plugin=HexHighEntropyString",
    "--disable-plugin=KeywordDetector",
    "--exclude-files=requirements.txt$",
)


def scan(scanner: Sequence[str], *paths: object) -> subprocess.CompletedProcess[str]:
    """What a scanner says of files or folders; 0 if it found nothing."""
    command = [sys.executable, "-m", *scanner, *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bandit_finds_nothing_that_has_no_reason_beside_it():
    found = scan(BANDIT, "worker", "operator", "crds")
    assert found.returncode == 0, found.stdout


def test_bandit_finds_what_is_there(tmp_path: Path):
    (tmp_path / "weak.py").write_text("import pickle\npickle.loads(input())\n", encoding="utf-8")
    found = scan(BANDIT, tmp_path)
    assert found.returncode == 1
    assert "B301" in found.stdout


def test_no_file_holds_a_secret():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    names = [name for name in listed.split("\0") if (ROOT / name).is_file()]
    assert len(names) > 500
    found = scan(SECRETS, *names)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    "parts",
    [("ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"), ("-----BEGIN RSA ", "PRIVATE KEY-----"),
     ("AKIA", "QYLPMN5HHHFPZAM2")],
    ids=["GitHub", "a private key", "AWS"],
)  # fmt: skip
def test_a_secret_is_found(tmp_path: Path, parts: Sequence[str]):
    path = tmp_path / "notes.txt"
    path.write_text(f"token: {''.join(parts)}\n", encoding="utf-8")
    assert scan(SECRETS, path).returncode == 1
