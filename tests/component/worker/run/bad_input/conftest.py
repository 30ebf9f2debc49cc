"""Prints the table of bad inputs: case, exit code, first lines of the message."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.bad_input import Bench, Outcome, check_success, message_lines

Row = tuple[str, str, int, list[str]]
"""What is bad, the case, the exit code, lines of the message."""
TABLE = pytest.StashKey[list[Row]]()
SHOWN_CHARACTERS = 400


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def staged_first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run over episode 0 staged."""
    bench = Bench(tmp_path_factory.mktemp("first"), episodes="0")
    check_success(bench.run(), bench)
    return bench.staging


@pytest.fixture
def tabulate(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str, Outcome], None]:
    """Put a case into the table: what is bad, its name, what came of it."""

    def add(area: str, name: str, bad: Outcome) -> None:
        lines = [line.replace(str(tmp_path), "...") for line in message_lines(bad)]
        lines = [re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", line) for line in lines]
        request.config.stash[TABLE].append((area, name, bad.exit_code, lines))

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    rows = config.stash[TABLE]
    if not rows:
        return
    terminalreporter.section("bad input: case, exit code, first lines of the message")
    width = max(len(f"{area}: {name}") for area, name, _, _ in rows)
    for area, name, exit_code, lines in rows:
        first, *more = [_cut(line) for line in lines] or [""]
        terminalreporter.write_line(f"{f'{area}: {name}':<{width}} {exit_code:>3}  {first}")
        for line in more:
            terminalreporter.write_line(f"{'':<{width}}      {line}")
    terminalreporter.write_line(f"{len(rows)} bad inputs")


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
