"""For every suite: counts for the table of `make test`, and an environment without the user's settings."""

import json
import os
from pathlib import Path

import pytest

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
