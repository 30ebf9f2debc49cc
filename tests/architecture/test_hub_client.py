"""How the Hub's client is used: in one package, without Xet, and only where there is a Hub."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT

WORKER = ROOT / "worker/annotationrun_worker"


def imported(path: Path) -> set[str]:
    """Names of the modules that the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def said_by(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def test_one_package_alone_speaks_to_the_hub():
    users = {
        path.relative_to(WORKER).parts[0]
        for path in WORKER.rglob("*.py")
        if any(name.split(".")[0] == "huggingface_hub" for name in imported(path))
    }
    assert users == {"hub"}


def test_transfers_are_without_xet_though_somebody_else_imported_the_client_before():
    code = (
        "import huggingface_hub.constants as c; before = c.HF_HUB_DISABLE_XET; "
        "import annotationrun_worker.hub.repository; print(before, c.HF_HUB_DISABLE_XET)"
    )
    assert said_by(code) == "False True"


def test_a_run_between_folders_does_not_load_the_client():
    code = "import sys, annotationrun_worker.commands.run; print('huggingface_hub' in sys.modules)"
    assert said_by(code) == "False"
