"""For every suite: what a session tells the runner, which tests are its, a clean environment, stores."""

import argparse
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.azure_server import AzureServer, azure_server
from tests.support.s3_server import S3Server, s3_server
from tests.support.suite_record import COUNTED, Record

NEEDS = {
    "s3": "needs a real S3 server, which is built from its sources",
    "azure": "needs an emulator of Azure's blob storage, which npm installs",
    "root": "needs root: it mounts file systems, or gives files to other users",
}
"""What not every machine has; the marks `needs_s3`, `needs_azure` and `needs_root` name it."""
PRINTED = "printed"
NO_HUB = "http://127.0.0.1:9"
"""Where nobody listens: who names no Hub of the tests is refused at once, and asks none on the network."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="write counts and seconds of this session into this file")
    parser.addoption("--only", type=_needs, help="only tests that need one of these (s3,azure,root)")
    parser.addoption("--without", type=_needs, help="only tests that need none of these (s3,azure,root)")


def _needs(names: str) -> list[str]:
    if unknown := set(names.split(",")) - set(NEEDS):
        raise argparse.ArgumentTypeError(f"unknown: {sorted(unknown)}; there are {list(NEEDS)}")
    return [f"needs_{name}" for name in names.split(",")]


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores Ctrl-C, and so would all that the tests start and stop with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, text in NEEDS.items():
        config.addinivalue_line("markers", f"needs_{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A suite's part of the tests; what it leaves out belongs to another suite, and is not deselected."""
    if only := config.getoption("--only"):
        items[:] = [item for item in items if any(map(item.get_closest_marker, only))]
    if without := config.getoption("--without"):
        items[:] = [item for item in items if not any(map(item.get_closest_marker, without))]


@pytest.fixture
def printed(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Takes lines that are printed below a title at the end of the session, from whichever process."""

    def take(text: str, title: str = "figures") -> None:
        request.node.user_properties.append((PRINTED, [title, text]))

    return take


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found]
    tests = [report for report in reports if isinstance(report, pytest.TestReport)]
    lines: dict[str, list[str]] = defaultdict(list)
    for report in tests:
        for name, value in report.user_properties:
            if name == PRINTED and report.when == "teardown":
                title, text = value
                lines[title].append(text)
    for title in lines:
        terminalreporter.section(f"{title} ({len(lines[title])})")
        for text in sorted(lines[title]):
            terminalreporter.write_line(text)
    path: Path | None = config.getoption("--record")
    if path is not None:
        seconds: dict[str, dict[str, float]] = defaultdict(dict)
        for report in tests:
            seconds[report.nodeid][report.when] = report.duration
        counts = {name: len(terminalreporter.stats.get(name, [])) for name in COUNTED}
        Record(counts, seconds).write(path)


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> None:
    """Keys and proxies of the user don't reach the tests; everything they call is on this machine."""
    for name in [
        name for name in os.environ if name.startswith(("OPENAI_", "HF_")) or name.lower().endswith("_proxy")
    ]:
        del os.environ[name]
    os.environ["HF_ENDPOINT"] = NO_HUB


@pytest.fixture(autouse=True)
def usual_scheduling() -> Iterator[None]:
    """An encoder of SVT-AV1 makes the thread that opened it a real-time one, if that is root's.

    It would keep a processor from all others from then on, and so would the processes that it starts.
    """
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, the same for all tests."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_location(s3: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A staging location of its own on the S3 server; the environment holds its keys."""
    assert request.node.get_closest_marker("needs_s3"), "a test on S3 has the mark needs_s3"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_location()


@pytest.fixture(scope="session")
def azure() -> Iterator[AzureServer]:
    """Azure's blob storage, the same for all tests."""
    with azure_server() as server:
        yield server


@pytest.fixture
def azure_location(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A staging location of its own on Azure; the environment says where that is."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in azure.environment.items():
        monkeypatch.setenv(name, value)
    return azure.new_location()


@pytest.fixture(
    params=[
        "folder",
        pytest.param("s3", marks=pytest.mark.needs_s3),
        pytest.param("azure", marks=pytest.mark.needs_azure),
    ]
)
def location(request: pytest.FixtureRequest) -> str:
    """A staging location that is empty: a test that asks for it runs on a folder, on S3 and on Azure."""
    if request.param == "folder":
        return str(request.getfixturevalue("tmp_path") / "staging")
    return str(request.getfixturevalue(f"{request.param}_location"))
