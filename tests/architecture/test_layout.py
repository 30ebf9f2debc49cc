"""The rules of the layout that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.checkout import ROOT

SOURCE_ROOTS = ("operator", "worker", "crds")
MODULES = sorted(path for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULE_LINES = 500
TEST_MODULE_LINES = 500


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_modules_were_found():
    assert len(MODULES) > 20
    assert len(TESTS) > 5


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_is_no_package(root):
    assert not (ROOT / root / "__init__.py").exists(), "it would shadow the standard library's module"


@pytest.mark.parametrize(
    ("paths", "most_lines"),
    [pytest.param(MODULES, MODULE_LINES, id="modules"), pytest.param(TESTS, TEST_MODULE_LINES, id="tests")],
)
def test_a_module_fits_on_few_screens(paths, most_lines):
    lines = {str(path.relative_to(ROOT)): line_count(path) for path in paths}
    assert {path: count for path, count in lines.items() if count > most_lines} == {}
    assert max(lines.values()) > 100, "they were read"


@pytest.mark.parametrize("kind", ["unit", "component"])
def test_tests_lie_in_folders_like_those_of_the_source(kind):
    folders = {
        path.name for path in (ROOT / "tests" / kind / "worker").iterdir() if list(path.glob("test_*.py"))
    }
    assert len(folders) >= 8
    source = {path.name for path in (ROOT / "worker" / "annotationrun_worker").iterdir() if path.is_dir()}
    assert folders <= source


def test_no_module_is_a_drawer_for_everything():
    assert not {path.stem for path in [*MODULES, *TESTS]} & {"utils", "util", "helpers", "common", "misc"}


def test_nothing_is_skipped_or_expected_to_fail():
    marks = {"skip", "skipif", "xfail", "importorskip"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in marks
    ]
    assert found == []


def test_the_top_level_holds_what_the_design_names():
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    fixed = {"pyproject.toml", "Dockerfile", "helm", "README.md", "operator", "worker", "tests", "crds"}
    assert names - {"out"} <= fixed | {"Makefile", "LICENSE", "CHANGELOG.md"}


def test_no_lock_file_names_a_host():
    npm = ROOT / "tests/support/azurite/package-lock.json"
    assert "://" not in npm.read_text(encoding="utf-8")
    patterns = (
        "*/*requirements.txt",
        "tests/*/requirements.txt",
        "tests/support/*.txt",
        "tests/support/*/*.txt",
    )
    locks = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    assert len(locks) >= 9
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert text.count("--hash=sha256:") >= text.count("==") > 0


def test_a_run_does_not_load_torch():
    """Tensors are made where they are asked for; a run asks for none, and saves 2 s and 500 MiB."""
    code = "import sys, annotationrun_worker.commands.run; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
