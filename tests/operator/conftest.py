"""One real API server for all tests of the operator; each test has a namespace of its own."""

from collections.abc import Generator, Iterator

import pytest
from tests.support.api_server import ApiServer, api_server
from tests.support.kueue import Kueue, kueue_manager


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the CRD."""
    with api_server(tmp_path_factory.mktemp("api-server")) as started:
        yield started


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """A namespace that is new and empty."""
    return server.new_namespace()


@pytest.fixture(scope="session")
def kueue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kueue]:
    """Kueue's manager, with an API server of its own."""
    with kueue_manager(tmp_path_factory.mktemp("kueue")) as started:
        yield started


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test of Kueue that fails shows the end of its log."""
    report = yield
    kueue = getattr(item, "funcargs", {}).get("kueue")
    if report.failed and isinstance(kueue, Kueue):
        report.sections.append(("Kueue's log", kueue.log_end()))
    return report
