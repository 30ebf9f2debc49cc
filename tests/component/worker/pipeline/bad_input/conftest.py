"""Prints the table of bad inputs: case, exit code, first lines of the message."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.bad_input import Bench, Outcome, check_success, message_lines

TITLE = "bad input: case, exit code, first lines of the message"
NAME_CHARACTERS = 64
SHOWN_CHARACTERS = 400


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
def tabulate(printed: Callable[..., None], tmp_path: Path) -> Callable[[str, str, Outcome], None]:
    """Put a case into the table: what is bad, its name, what came of it."""

    def add(area: str, name: str, bad: Outcome) -> None:
        lines = [line.replace(str(tmp_path), "...") for line in message_lines(bad)]
        lines = [re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", line) for line in lines]
        first, *more = [_cut(line) for line in lines] or [""]
        row = f"{f'{area}: {name}':<{NAME_CHARACTERS}} {bad.exit_code:>3}  {first}"
        printed("\n".join([row, *(f"{'':<{NAME_CHARACTERS}}      {line}" for line in more)]), TITLE)

    return add


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."
