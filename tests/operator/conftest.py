"""One real API server for all tests of the operator; each test has a namespace of its own."""

from collections.abc import Iterator

import pytest
from tests.support.api_server import ApiServer, api_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """An API server with the CRD."""
    with api_server(tmp_path_factory.mktemp("api-server")) as started:
        yield started


@pytest.fixture
def namespace(server: ApiServer) -> str:
    """A namespace that is new and empty."""
    return server.new_namespace()
