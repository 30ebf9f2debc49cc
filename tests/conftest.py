"""For every suite: counts for the table of `make test`, an environment without the user's settings, S3."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.s3_server import S3Server, s3_server

COUNTED = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "deselected")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--counts", type=Path, help="write the counts of this session as JSON into this file")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path: Path | None = config.getoption("--counts")
    if path is not None:
        counts = {name: len(terminalreporter.stats.get(name, [])) for name in COUNTED}
        path.write_text(json.dumps(counts), encoding="utf-8")


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """Keys and proxies of the user don't reach the tests; everything they call is on this machine."""
    for name in [
        name for name in os.environ if name.startswith(("OPENAI_", "HF_")) or name.lower().endswith("_proxy")
    ]:
        del os.environ[name]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, the same for all tests."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_location(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A staging location of its own on the S3 server; the environment holds its keys."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_location()


@pytest.fixture(params=["folder", "s3"])
def location(request: pytest.FixtureRequest) -> str:
    """A staging location that is empty: a test that asks for it runs once on a folder and once on S3."""
    if request.param == "folder":
        return str(request.getfixturevalue("tmp_path") / "staging")
    return str(request.getfixturevalue("s3_location"))
